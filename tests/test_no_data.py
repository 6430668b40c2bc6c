"""Pixels that are none: values declared as no data, alpha that hides everything; odd metadata."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from codes import load_images
from codes.data import sources as sources_module
from codes.data.images import digest_images
from codes.decoding.decode import UnreadableImageError, decode_bytes, decode_file
from pipelines import ExtractionOptions
from pipelines.extraction.extract import extract
from tests.conftest import draw_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 4096, (30, 40))
COLOR = RNG.integers(100, 4000, (30, 40, 3))
HOLE = np.s_[:, :3]


def _tiff(values: NDArray[Any], declared: str | None, **options: Any) -> bytes:
    kept, tags = io.BytesIO(), options.pop("extratags", [])
    tags += [] if declared is None else [(42113, "s", 0, declared, True)]
    tifffile.imwrite(kept, values, metadata=None, extratags=tags, **options)
    return kept.getvalue()


def _seen(values: NDArray[Any], missing: NDArray[np.bool_], white: bool) -> NDArray[np.uint8]:
    """What a picture of these values looks like, in RGB: black where there are none."""
    held = values[~missing].astype(np.float64)
    shares = (values.astype(np.float64) - held.min()) / (held.max() - held.min())
    shares = np.where(missing, 0, 1 - shares if white else shares)
    pixels = np.rint(shares * 255).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize(
    ("kind", "value", "declared"),
    [
        ("u2", 65535, "65535"), ("u2", 0, "0"), ("u2", 65535, "65535.0 \0"), ("i2", -9999, "-9999"),
        ("u4", 2**32 - 1, "4294967295"), ("i8", -(2**63), str(-(2**63))), ("i1", -128, "-128"),
        ("f4", -9999, "-9999"), ("f4", np.nan, "nan"), ("f8", np.nan, "-NaN"), ("f8", 1e30, "1e30"),
        ("f4", np.finfo(np.float32).min, "-3.4028234663852886e+38"), ("f4", np.inf, "inf"),
        ("f4", np.float32(-3.4028231e38), "-3.40282306074e+38"), ("f2", -999, "-999"),
    ],
)  # fmt: skip
def test_a_value_for_no_data_has_no_part_in_the_range(
    kind: str, value: float, declared: str, photometric: str
) -> None:
    pixels = (COLOR if photometric == "rgb" else GRAY) // (40 if kind == "i1" else 1) + 1
    values = pixels.astype(kind)
    missing = np.zeros(values.shape, bool)
    missing[HOLE] = True
    values[missing] = value
    white = photometric == "miniswhite"
    found = np.asarray(decode_bytes(_tiff(values, declared, photometric=photometric)))
    expected = _seen(values, missing, white)
    assert np.abs(found - expected.astype(int)).max() <= white
    assert (found[HOLE] == 0).all()
    assert len(np.unique(found)) > 80


def test_one_channel_without_data_leaves_the_others() -> None:
    values = COLOR.astype(np.float32)
    missing = np.zeros(values.shape, bool)
    missing[:5, :, 1] = True
    values[missing] = -9999
    alpha = np.full((30, 40, 1), -9999, np.float32)  # Transparency is no colour.
    alpha[:20] = 1
    content = _tiff(
        np.dstack([values, alpha]), "-9999", photometric="rgb", extrasamples=["unassalpha"]
    )
    expected = _seen(COLOR, missing, white=False)
    expected[20:] = 255
    np.testing.assert_array_equal(np.asarray(decode_bytes(content)), expected)


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        (GRAY.astype(np.uint16), "-9999"), (GRAY.astype(np.uint16), "nan"),
        (GRAY.astype(np.uint16), "70000"), (GRAY.astype(np.uint16), "100.5"),
        (GRAY.astype(np.float32), "1e39"), (GRAY.astype(np.float32), "none"),
        (GRAY.astype(np.float32), ""), (GRAY.astype(np.uint16), "9" * 5000),
        ((GRAY // 16).astype(np.uint8), "0"), ((GRAY // 16).astype(np.uint8), "255"),
        (GRAY > 2000, "1"),
    ],
)  # fmt: skip
def test_declarations_that_change_nothing(values: NDArray[Any], declared: str) -> None:
    """No value of the type, no number at all, or 8 bits, which are taken as they are."""
    plain, declaring = _tiff(values, None), _tiff(values, declared)
    assert decode_bytes(plain).tobytes() == decode_bytes(declaring).tobytes()
    assert not sources_module.was_misread(io.BytesIO(declaring))


def test_an_image_of_no_data_alone_is_none() -> None:
    for values, declared, kind in (
        (np.full((9, 9), -9999, np.int16), "-9999", "minisblack"),
        (np.full((9, 9, 3), np.nan, np.float32), "nan", "rgb"),
    ):
        with pytest.raises(UnreadableImageError, match=f"holds no data.*{declared}"):
            decode_bytes(_tiff(values, declared, photometric=kind))
    values = GRAY.astype(np.float32)
    values[0, :2] = np.nan, -9999
    with pytest.raises(UnreadableImageError, match="NaN"):
        decode_bytes(_tiff(values, "-9999"))


def _bmp(pixels: NDArray[np.uint8]) -> bytes:
    """Write a BMP with a mask for alpha, of pixels of shape (height, width, 4), RGB and alpha."""
    height, width, _ = pixels.shape
    rows = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0)
    header += masks + bytes(108 - len(header) - len(masks))
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


def test_alpha_of_a_bmp_that_hides_everything_is_none() -> None:
    colors = np.asarray(draw_image(0))
    height, width, _ = colors.shape
    alpha = np.zeros((height, width, 1), np.uint8)
    hidden = np.asarray(decode_bytes(_bmp(np.dstack([colors, alpha]))))
    np.testing.assert_array_equal(hidden, colors)
    alpha[:9] = 255
    shown = np.asarray(decode_bytes(_bmp(np.dstack([colors, alpha]))))
    np.testing.assert_array_equal(shown, np.where(alpha, colors, 255))
    kept = io.BytesIO()
    Image.fromarray(np.dstack([colors, alpha * 0])).save(kept, "PNG")
    assert (np.asarray(decode_bytes(kept.getvalue())) == 255).all(), "meant, in other formats"


def _exif(order: str, *entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """Write EXIF: number, type, count and value of each entry."""
    end = ">" if order == "MM" else "<"
    content = order.encode() + struct.pack(f"{end}HI", 42, 8) + struct.pack(f"{end}H", len(entries))
    for number, kind, count, value in entries:
        content += struct.pack(f"{end}HHI", number, kind, count) + value.ljust(4, b"\0")
    return content + bytes(4) + more


def _at(end: str, where: int) -> bytes:
    return struct.pack(f"{end}I", where)


_TURN = (0x112, 3, 1, struct.pack("<H", 6))
ODD = {
    "a resolution of -1/0": _exif(
        "II", _TURN, (0x11A, 10, 1, _at("<", 38)), more=struct.pack("<ii", -1, 0)
    ),
    "a resolution of 0/0": _exif(
        "MM", (0x112, 3, 1, b"\0\6"), (0x11B, 5, 1, _at(">", 38)), more=bytes(8)
    ),
    "text that is none": _exif("II", _TURN, (0x131, 2, 4, b"\xff\xfe\xfd\0")),
    "a value beyond the end": _exif("II", _TURN, (0x131, 2, 400, _at("<", 60_000))),
    "a type that is none": _exif("II", _TURN, (0x131, 99, 1, b"abcd")),
    "a folder that is its own": _exif("II", _TURN, (0x8769, 4, 1, _at("<", 8))),
}


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "wide.png"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_metadata_do_not_keep_an_image_from_being_turned(
    tmp_path: Path, ending: str, odd: str
) -> None:
    image = draw_image(0)
    if ending == "wide.png":
        image = Image.fromarray(256 * np.asarray(image)[..., 0].astype(np.uint16))
    for name, options in (("plain", {}), ("turned", {"exif": b"Exif\0\0" + ODD[odd]})):
        image.save(tmp_path / f"{name}.{ending}", **options)
    plain, turned = (
        np.asarray(decode_file(tmp_path / f"{n}.{ending}")) for n in ("plain", "turned")
    )
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_as_pillow_turns_them(orientation: int) -> None:
    from PIL import ImageOps

    kept, tag = io.BytesIO(), Image.Exif()
    tag[0x112] = orientation
    draw_image(0).save(kept, "PNG", exif=tag)
    expected = ImageOps.exif_transpose(Image.open(kept))
    assert decode_bytes(kept.getvalue()).tobytes() == expected.tobytes()
    tiff = _tiff(GRAY.astype(np.uint16), None, extratags=[(0x112, 3, 1, orientation, True)])
    upright = Image.fromarray(np.asarray(decode_bytes(_tiff(GRAY.astype(np.uint16), None))))
    expected = ImageOps.exif_transpose(_tagged(upright, tag))
    assert decode_bytes(tiff).tobytes() == expected.tobytes()


def _tagged(image: Image.Image, tag: Image.Exif) -> Image.Image:
    kept = io.BytesIO()
    image.save(kept, "PNG", exif=tag)
    return Image.open(kept)


def test_metadata_that_cannot_be_read_turn_nothing(tmp_path: Path) -> None:
    """The pixels are sound; where they lie is not told."""
    draw_image(0).save(tmp_path / "odd.png", exif=b"Exif\0\0no TIFF header at all")
    assert decode_file(tmp_path / "odd.png").tobytes() == draw_image(0).tobytes()


def _changed_files(folder: Path) -> list[Path]:
    """Write files that were seen in another way by earlier versions, and their like."""
    values = GRAY.astype(np.float32)
    values[HOLE] = -9999
    colors = np.dstack([np.asarray(draw_image(0)), np.zeros((30, 40, 1), np.uint8)])
    opaque = np.dstack([colors[..., :3], np.full((30, 40, 1), 255, np.uint8)])
    (folder / "red" / "hidden.bmp").write_bytes(_bmp(colors))
    (folder / "red" / "hole.tif").write_bytes(_tiff(values, "-9999"))
    (folder / "red" / "shown.bmp").write_bytes(_bmp(opaque))
    (folder / "red" / "whole.tif").write_bytes(_tiff(GRAY.astype(np.float32), None))
    (folder / "red" / "bytes.tif").write_bytes(_tiff((GRAY // 16).astype(np.uint8), "255"))
    return [folder / "red" / "hidden.bmp", folder / "red" / "hole.tif"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_codes_stored_for_other_pixels_are_not_returned(
    image_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = _changed_files(image_folder)
    dataset = image_folder
    if kind == "zip":
        dataset = image_folder.with_name("packed.zip")
        with zipfile.ZipFile(dataset, "w") as archive:
            for file in sorted(image_folder.rglob("*.*")):
                archive.write(file, file.relative_to(image_folder))
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu")
    monkeypatch.setattr("cache.digests.SETTLED", -1e9)  # Digests of new files are remembered.
    with monkeypatch.context() as earlier:
        earlier.setattr(sources_module, "was_misread", lambda _: False)
        earlier.setattr(sources_module, "_ANEW", ())
        before = extract(load_images(dataset), options)
    assert before.n_extracted == 41
    for n_extracted in (2, 0):
        again = extract(load_images(dataset), options)
        assert again.n_extracted == n_extracted
    names = [Path(name).name for name in again.images.source.names]
    other = np.flatnonzero((before.digests != again.digests).any(1))
    assert [names[i] for i in other] == [file.name for file in changed]
    np.testing.assert_array_equal(again.digests, digest_images(load_images(dataset)))


def test_sources_agree_on_what_such_files_are_known_by(image_folder: Path, tmp_path: Path) -> None:
    changed = [str(file) for file in _changed_files(image_folder)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    table = datasets.Dataset.from_dict({"image": changed, "label": [0, 1]}, features=features)
    table.save_to_disk(tmp_path / "table")
    plain = load_images(image_folder)
    places = [plain.source.names.index(name) for name in changed]
    np.testing.assert_array_equal(
        digest_images(load_images(f"hf:{tmp_path}/table")), digest_images(plain)[places]
    )


def test_the_page_that_declares_no_data_is_told_from_others(image_folder: Path) -> None:
    file = image_folder / "red" / "pages.tif"
    with tifffile.TiffWriter(file) as writer:
        writer.write(GRAY.astype(np.uint16), metadata=None)
        tags = [(42113, "s", 0, "4095", True)]
        writer.write(GRAY.astype(np.uint16), metadata=None, extratags=tags)
    pages = [load_images(image_folder, page=page) for page in (1, 2)]
    place = pages[0].source.names.index(str(file))
    first, second = (images.source.digest(place) for images in pages)
    assert first != second
    assert sources_module.was_misread(io.BytesIO(file.read_bytes()))
