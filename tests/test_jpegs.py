"""JPEG files are decoded to Pillow's pixels, with Pillow's verdicts; or smaller, and nearly so."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from codes import CodeExtractor, Preprocessing, load_backbone, load_images
from codes.augmentation import AugmentedPreprocessing
from codes.decoding import jpegs
from codes.decoding.decode import (
    WHOLE,
    Decoding,
    UnreadableImageError,
    decode,
    decode_bytes,
)
from codes.resizing import resize
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "fine colours": {"subsampling": 0},
    "halved colours": {"subsampling": 1},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "exact": {"quality": 100, "optimize": True},
}


def _photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Draw what falls off towards high frequencies, as photographs do."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width
    )
    spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / (1 + frequency) ** 1.5
    waves = np.fft.ifft2(spectrum).real
    waves /= np.abs(waves).max((1, 2), keepdims=True)
    return Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8).transpose(1, 2, 0))


def _jpeg(image: Image.Image, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | how))
    return buffer.getvalue()


def _by_pillow(content: bytes) -> np.ndarray[Any, Any] | str:
    """Decode with Pillow alone, or return its complaint."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                whole = image.convert("RGB")
                try:
                    return np.asarray(ImageOps.exif_transpose(whole))
                except Exception:
                    return np.asarray(whole)  # Odd metadata turn nothing.
    except Exception as error:
        return str(error)


def _decoded(content: bytes, enough: int | None = None) -> np.ndarray[Any, Any]:
    return decode(lambda: io.BytesIO(content), decoding=Decoding(enough=enough))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind: str, mode: str) -> None:
    for height, width in ((61, 83), (16, 8), (1, 1), (3, 200)):
        content = _jpeg(_photograph(height, width).convert(mode), **KINDS[kind])
        np.testing.assert_array_equal(decode_bytes(content), _by_pillow(content))


@pytest.mark.parametrize("orientation", range(10))
def test_photographs_are_turned_as_pillow_turns_them(orientation: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    content = _jpeg(_photograph(48, 80), exif=tag)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_bytes(content), expected)
    small = _decoded(content, enough=24)
    assert small.shape == (expected.shape[0] // 2, expected.shape[1] // 2, 3)
    halved = expected.reshape(small.shape[0], 2, small.shape[1], 2, 3).mean((1, 3))
    assert np.abs(small - halved).mean() < 5, "no other way up"


def _damaged(content: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Cut, prolong and change a file."""
    yield content + b"something behind it"
    yield content + content
    yield from (content[:-n] for n in range(1, 6))
    yield from (content[:n] for n in rng.integers(3, len(content), 12))
    for _ in range(25):
        changed = bytearray(content)
        for place in rng.integers(3, len(content), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        yield bytes(changed)
    for _ in range(10):
        first, last = sorted(rng.integers(3, len(content), 2))
        yield content[:first] + content[last:]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_judged_as_pillow_judges_it(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    thumbnail = Image.Exif()
    thumbnail[0x0112] = 1
    preview = _jpeg(_photograph(16, 16))  # Its end is not the photograph's.
    files = [
        _jpeg(_photograph(61, 83), **KINDS[kind]),
        _jpeg(_photograph(40, 40).convert("L"), exif=thumbnail.tobytes() + preview, **KINDS[kind]),
    ]
    seen: Counter[str] = Counter()
    for content in files:
        for changed in _damaged(content, rng):
            expected = _by_pillow(changed)
            try:
                found = decode_bytes(changed)
            except UnreadableImageError:
                assert isinstance(expected, str)
                seen["refused"] += 1
            else:
                np.testing.assert_array_equal(found, expected)
                seen["decoded"] += 1
    assert min(seen["refused"], seen["decoded"]) > 15


def test_a_file_that_ends_early_is_not_filled_up_with_grey() -> None:
    """What libjpeg-turbo does by itself."""
    content = _jpeg(_photograph(64, 64))
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode_bytes(content[: len(content) // 2])


def test_whole_files_do_not_pass_pillows_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _jpeg(_photograph(64, 64))
    expected = _by_pillow(content)

    def fail(*arguments: Any) -> None:
        raise AssertionError("Pillow decodes")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", fail)
    np.testing.assert_array_equal(decode_bytes(content), expected)


@pytest.mark.parametrize(
    ("height", "width", "enough", "shape"),
    [
        (640, 960, 80, (160, 240)),
        (640, 960, 160, (160, 240)),
        (640, 960, 161, (320, 480)),
        (640, 960, 321, (640, 960)),
        (960, 640, 160, (240, 160)),
        (640, 962, 80, (320, 481)),
        (641, 960, 80, (641, 960)),
        (640, 960, None, (640, 960)),
    ],
)
def test_the_smallest_whole_fraction_that_is_enough_is_decoded(
    height: int, width: int, enough: int | None, shape: tuple[int, int]
) -> None:
    for mode in ("RGB", "L"):
        content = _jpeg(_photograph(height, width).convert(mode))
        assert _decoded(content, enough).shape == (*shape, 3)


@pytest.mark.parametrize("factor", [2, 4])
def test_crops_of_scaled_photographs_are_within_the_stated_tolerance(factor: int) -> None:
    """The means are those that `codes.preprocessing.ENOUGH` states."""
    steps = Preprocessing(resize_size=64, crop_size=56)
    assert steps.decoding.enough == 160
    height, width = 160 * factor, 216 * factor
    across = np.arange(width)
    for name, image, most in [
        *((f"photograph {i}", _photograph(height, width, i), 0.4) for i in range(3)),
        *(
            (f"stripes of {n}", Image.fromarray(np.tile(
                ((across // n) % 2 * 255).astype(np.uint8), (height, 1))), 6.0)
            for n in (1, 2, 3, 5, 7)
        ),
    ]:  # fmt: skip
        content = _jpeg(image)
        small = _decoded(content, steps.decoding.enough)
        assert small.shape[0] == height // factor
        difference = steps.crop(small).float() - steps.crop(decode_bytes(content)).float()
        assert difference.abs().mean() <= most, name


def test_how_files_are_decoded_is_part_of_the_key(tmp_path: Path) -> None:
    for number, label in enumerate("abab"):
        (tmp_path / label).mkdir(exist_ok=True)
        file = tmp_path / label / f"{number}.jpg"
        file.write_bytes(_jpeg(_photograph(640, 480, number)))
    images = load_images(tmp_path)
    options = {"backbone": "bundled", "layers": "conv5.relu", "dtype": "float32"}
    scaled, full = (
        extract(images, ExtractionOptions(**options, decode=decode))  # type: ignore[arg-type]
        for decode in ("scaled", "full")
    )
    assert scaled.n_extracted == full.n_extracted == 4
    assert scaled.key != full.key
    for found, decoding in ((scaled, scaled.backbone.preprocessing.decoding), (full, WHOLE)):
        crops = [
            found.backbone.preprocessing.crop(images.source.open(i, decoding)) for i in range(4)
        ]
        [expected] = CodeExtractor(load_backbone("bundled"), "conv5.relu")(
            torch.stack(crops)
        ).values()
        np.testing.assert_allclose(
            found.codes("conv5.relu"), expected.numpy(), rtol=1e-4, atol=1e-4
        )
    assert np.abs(scaled.codes("conv5.relu") - full.codes("conv5.relu")).max() > 1e-6
    with pytest.raises(ValueError, match=r"quick.*scaled, full"):
        extract(images, ExtractionOptions(**options, decode="quick"))  # type: ignore[arg-type]


def test_random_views_are_of_as_many_pixels() -> None:
    steps = AugmentedPreprocessing(resize_size=64, crop_size=224)
    assert steps.decoding.enough == 640, "their room is larger than the centre's"
    full = AugmentedPreprocessing(resize_size=64, crop_size=224, decode="full")
    assert full.decoding.enough is None


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(97, 131), (40, 51), (30, 64)])
def test_images_are_resized_as_pillow_resizes_them(
    interpolation: str, size: tuple[int, int]
) -> None:
    image = _photograph(*size)
    for short in (32, 40, 64, 150):
        preset = transforms.Resize(short, transforms.InterpolationMode(interpolation))
        expected = np.asarray(preset(image)).astype(int)
        steps = Preprocessing(resize_size=short, crop_size=short, interpolation=interpolation)
        whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        found = resize(whole, *expected.shape[:2], interpolation)[0].permute(1, 2, 0).numpy()
        most = {"nearest": 0, "bilinear": 1, "bicubic": 2}[interpolation]
        assert np.abs(found - expected).max() <= most
        centre = np.asarray(transforms.CenterCrop(short)(preset(image))).astype(int)
        assert np.abs(steps.crop(image).permute(1, 2, 0).numpy() - centre).max() <= most


def test_a_decoder_that_gives_another_size_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _jpeg(_photograph(24, 40))
    expected = _by_pillow(content)
    monkeypatch.setattr(jpegs, "_decode", lambda content: np.zeros((24, 24, 3), np.uint8))
    np.testing.assert_array_equal(decode_bytes(content), expected)
