"""Anything people call an image, in a folder or packed, against the reference decoder."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from codes import CodeExtractor, Preprocessing, load_backbone, load_images
from codes import preprocessing as preprocessing_module
from codes.inference.devices import DeviceLostError
from codes.inference.reading import BatchReader
from pipelines import ExtractionOptions
from pipelines.extraction.extract import extract
from pipelines.extraction.left_out import UnreadableImagesError
from pipelines.progress import Silent

OPTIONS = ExtractionOptions(backbone="bundled", layers="conv2.relu,fc7.relu", dtype="float32")


def _packed(folder: Path, kind: str) -> Path:
    file = folder.with_name(f"packed.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    else:
        with tarfile.open(file, "w") as archive:
            archive.add(folder, arcname=".")
    return file


def _every_format(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Write an image of every format; return the RGB values that each must be seen as."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    gray, alpha = rgb[..., 0], rgb[..., 1]
    repeated = np.repeat(gray[..., None], 3, 2)
    expected: dict[str, NDArray[np.uint8]] = {}

    def write(name: str, image: Image.Image, seen: NDArray[np.uint8] | None, **options) -> None:
        file = folder / "ab"[len(expected) % 2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, **options)
        # Lossy formats: what Pillow alone reads.
        expected[name] = np.asarray(Image.open(file).convert("RGB")) if seen is None else seen

    color = Image.fromarray(rgb)
    for ending in ("png", "bmp", "tif", "ppm"):
        write(f"color.{ending}", color, rgb)
    write("lossless.webp", color, rgb, lossless=True)
    write("color.jpg", color, None, quality=90)
    write("ink.jpg", color.convert("CMYK"), None)
    for ending in ("png", "tiff", "pgm", "bmp"):
        write(f"gray.{ending}", Image.fromarray(gray), repeated)
    write("gray.jpeg", Image.fromarray(gray), None)
    palette = color.quantize(64)
    for ending in ("png", "gif"):
        write(f"palette.{ending}", palette, np.asarray(palette.convert("RGB")))
    over_white = Image.new("RGBA", (50, 40), "white")
    layered = Image.fromarray(np.dstack([rgb, alpha]))
    over_white.alpha_composite(layered)
    for ending, options in (("png", {}), ("tif", {}), ("webp", {"lossless": True, "exact": True})):
        write(f"alpha.{ending}", layered, np.asarray(over_white.convert("RGB")), **options)
    wide = 1000 + 13 * gray.astype(np.uint16)
    span = np.rint((gray - gray.min()) / (int(gray.max()) - gray.min()) * 255).astype(np.uint8)
    for ending in ("png", "tif"):
        write(f"wide.{ending}", Image.fromarray(wide), np.repeat(span[..., None], 3, 2))
    write("real.tif", Image.fromarray(gray / np.float32(7)), np.repeat(span[..., None], 3, 2))
    tag = Image.Exif()
    tag[0x0112] = 6  # To be turned clockwise.
    write("turned.png", color, np.rot90(rgb, -1), exif=tag)
    return expected


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_every_format_gives_the_codes_of_the_reference_decoder(tmp_path: Path, kind: str) -> None:
    expected = _every_format(tmp_path / "images")
    dataset = tmp_path / "images" if kind == "folder" else _packed(tmp_path / "images", kind)
    images = load_images(dataset)
    assert len(images) == len(expected) == 21
    extraction = extract(images, OPTIONS)
    backbone = extraction.backbone
    resize = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    found = {layer: extraction.codes(layer) for layer in extraction.arrays}
    for i, path in enumerate(images.source.names):
        picture = resize(Image.fromarray(expected[Path(path).name]))
        inputs = transforms.functional.pil_to_tensor(picture)[None] / 255.0
        mean, std = (torch.tensor(v)[:, None, None] for v in (
            backbone.preprocessing.mean, backbone.preprocessing.std))  # fmt: skip
        with torch.inference_mode():
            body = torch.nn.Sequential(*list(backbone.model.children())[:-1])
            codes = body((inputs - mean) / std)[0].numpy()
        np.testing.assert_allclose(found["fc7.relu"][i], codes, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_whatever_else_lies_there_is_named_or_counted(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "images"
    _every_format(folder)
    whole = (folder / "a" / "color.png").read_bytes()
    for name, content in {
        "film.mp4": b"\0\0\0\x18ftypmp42" * 99, "paper.pdf": b"%PDF-1.7\n" * 99, "notes": b"x",
        "empty.png": b"", "text.jpg": b"hello", "cut.png": whole[: len(whole) // 2],
        "film.png": b"\0\0\0\x18ftypmp42" * 99, "paper.tif": b"%PDF-1.7\n" * 99,
    }.items():  # fmt: skip
        (folder / "a" / name).write_bytes(content)
    Image.new("L", (1, 1), 9).save(folder / "a" / "dot.png")
    Image.new("1", (20_000, 10_000)).save(folder / "a" / "bomb.png")
    pages = [Image.new("L", (9, 9), i) for i in range(3)]
    pages[0].save(folder / "a" / "pages.tif", save_all=True, append_images=pages[1:])
    dataset = folder if kind == "folder" else _packed(folder, kind)
    images = load_images(dataset)
    assert images.ignored == {".mp4": 1, ".pdf": 1, "(none)": 1}
    with pytest.raises(UnreadableImagesError) as caught:
        extract(images, OPTIONS)
    message = str(caught.value)
    assert message.startswith("7 of 29 images cannot be read")
    for name, why in {
        "empty.png": "the file is empty", "text.jpg": "not an image", "cut.png": "truncated",
        "film.png": "not an image", "paper.tif": "not an image", "bomb.png": "decompression bomb",
        "pages.tif": "3 pages .* choose with --page",
    }.items():  # fmt: skip
        assert re.search(f"{name}: .*{why}", message), (name, message)
    rest = extract(images, ExtractionOptions(**vars(OPTIONS) | {"skip_unreadable": True}))
    assert len(rest.images) == 22
    assert rest.n_extracted == 0


def test_strips_are_seen_as_if_they_were_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for size in ((700, 30), (30, 700), (901, 17), (333, 1), (64, 65)):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for views in ("center", "ten-crop"):
            for sides in ((96, 64), (64, 64)):
                steps = Preprocessing(resize_size=sides[0], crop_size=sides[1], views=views)
                whole = steps.crops(image).int()
                monkeypatch.setattr(preprocessing_module, "STRIP_PIXELS", 0)
                of_strip = steps.crops(image).int()
                monkeypatch.undo()
                assert whole.shape == of_strip.shape
                # Pillow keeps the corners of a window in single precision.
                assert (whole - of_strip).abs().max() <= 3, (size, views)


def test_dots_and_strips_have_codes() -> None:
    extractor = CodeExtractor(load_backbone("bundled"), "fc7.relu")
    for size in ((1, 1), (30_000, 20), (20, 30_000), (80_000, 1)):
        image = Image.new("RGB", size, (200, 30, 60))
        crops = extractor.preprocessing.crops(image)
        assert crops.shape == (1, 3, 64, 64)
        assert (torch.tensor([200, 30, 60]) == crops[0].flatten(1).T).all()
        assert extractor(crops)["fc7.relu"].isfinite().all()


class _Changing(Silent):
    """Changes a folder when its images have been digested and none is decoded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def info(self, text: str) -> None:
        if not text.startswith("Extracting"):
            return
        files = sorted(self.folder.glob("*/*.png"))
        os.replace(shutil.copy(files[1], self.folder / "copy"), files[0])  # One is another now,
        files[2].unlink()  # one is gone,
        shutil.copy(files[3], files[3].with_name("new.png"))  # and one is new.


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_changes_while_it_is_read(image_folder: Path, workers: int) -> None:
    images = load_images(image_folder)
    options = ExtractionOptions(**vars(OPTIONS) | {"skip_unreadable": True, "workers": workers})
    found = extract(images, options, progress=_Changing(image_folder))
    names = sorted(images.source.names)
    assert found.skipped.keys() == {names[0], names[2]}
    assert "changed while the dataset was read" in found.skipped[names[0]]
    assert "No such file" in found.skipped[names[2]]
    again = extract(load_images(image_folder), options)
    assert not again.skipped
    assert again.n_extracted == 0, "what it holds now was all read before"
    fresh = extract(
        load_images(image_folder),
        ExtractionOptions(**vars(options) | {"store": image_folder.with_name("fresh")}),
    )
    for layer in fresh.arrays:
        np.testing.assert_allclose(again.codes(layer), fresh.codes(layer), atol=1e-5)


def test_a_network_is_not_tuned_for_codes_that_are_stored(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_images(image_folder)
    first = extract(images, OPTIONS)
    monkeypatch.setattr("codes.extractor.BatchReader", None)
    again = extract(images, OPTIONS)
    assert (first.n_reused, again.n_extracted) == (0, 0)
    for layer in first.arrays:
        np.testing.assert_array_equal(again.codes(layer), first.codes(layer))
    with pytest.raises(TypeError, match="not callable"):
        extract(images, ExtractionOptions(**vars(OPTIONS) | {"pool": "max"}))


def test_a_device_that_fails_keeps_what_was_extracted(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, passes = BatchReader.forward, []

    def failing(self: BatchReader, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        passes.extend([len(pixels)] * (len(pixels) == 3))  # The check has four.
        if len(passes) > 4:
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel …")
        return call(self, pixels)

    monkeypatch.setattr(BatchReader, "forward", failing)
    options = ExtractionOptions(**vars(OPTIONS) | {"batch_size": 3})
    with pytest.raises(DeviceLostError, match=r"failed: CUDA error: unspecified launch"):
        extract(load_images(image_folder), options)
    monkeypatch.setattr(BatchReader, "forward", call)
    assert extract(load_images(image_folder), options).n_reused == 12
