"""TIFFs, and images of more than 8 bits a channel, against the values that were written."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from codes import load_images
from codes.data.images import digest_images
from codes.decoding.decode import UnreadableImageError, decode_bytes, decode_file

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 4096, (30, 40))  # As of a camera of 12 bits.
COLOR = RNG.integers(100, 4000, (30, 40, 3))
ALPHA = RNG.integers(0, 2**16, (30, 40, 1))


def _seen(values: NDArray[Any]) -> NDArray[np.uint8]:
    """What a picture of these values looks like, in RGB."""
    wide = values.astype(np.float64)
    scaled = np.rint((wide - wide.min()) / (wide.max() - wide.min()) * 255).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, 2)


def _tiff(values: NDArray[Any], **options: Any) -> bytes:
    kept = io.BytesIO()
    tifffile.imwrite(kept, values, metadata=None, **options)
    return kept.getvalue()


def _png_file(
    size: tuple[int, int],
    bits: int,
    kind: int,
    rows: list[bytes],
    *,
    key: tuple[bytes, bytes] | None = None,
    interlaced: bool = False,
) -> bytes:
    """Write a PNG, of depths that Pillow does not write."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, interlaced)),
        *([] if key is None else [key]),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for name, inside in chunks:
        content += struct.pack(">I", len(inside)) + name + inside
        content += struct.pack(">I", zlib.crc32(name + inside))
    return content


def _png(
    values: NDArray[Any], key: tuple[bytes, bytes] | None = None, *, interlaced: bool = False
) -> bytes:
    """Write a PNG of 16 bits a channel."""
    values = np.atleast_3d(values).astype(">u2")
    height, width, channels = values.shape
    steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
             (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]  # fmt: skip
    rows = [row.tobytes() for y, x, dy, dx in steps for row in values[y::dy, x::dx]]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return _png_file((width, height), 16, kind, rows, key=key, interlaced=interlaced)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "u4", "f2", "f4", "f8"])
def test_colors_of_tiffs_are_scaled_together(
    kind: str, order: str, planes: str, compression: str | None
) -> None:
    values = COLOR.astype(kind)
    written = values if planes == "contig" else np.moveaxis(values, -1, 0)
    content = _tiff(
        written, photometric="rgb", planarconfig=planes, byteorder=order, compression=compression
    )
    np.testing.assert_array_equal(np.asarray(decode_bytes(content)), _seen(values))


@pytest.mark.parametrize("kind", ["u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_gray_tiffs_of_every_type(kind: str, photometric: str) -> None:
    spread = {"u2": 1, "u4": 10**6, "i1": 1 / 32, "i2": 2, "i4": 10**5, "f2": 0.1}.get(kind, 1e-3)
    values = ((GRAY - (0 if kind[0] == "u" else 2000)) * spread).astype(kind)
    assert kind != "u4" or values.max() > 2**31
    expected = _seen(values if photometric == "minisblack" else -values.astype(np.float64))
    found = np.asarray(decode_bytes(_tiff(values, photometric=photometric)))
    assert np.abs(found - expected.astype(int)).max() <= (photometric == "miniswhite")


@pytest.mark.parametrize("kind", ["?", "u1"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True, "byteorder": ">"}, {"tile": (16, 16)}])
def test_bytes_and_bits_are_left_as_they_are(
    kind: str, photometric: str, options: dict[str, Any]
) -> None:
    values = (GRAY > 2000) if kind == "?" else (GRAY // 16).astype(np.uint8)
    expected = values.astype(int) * (255 if kind == "?" else 1)
    expected = expected if photometric == "minisblack" else 255 - expected
    found = np.asarray(decode_bytes(_tiff(values, photometric=photometric, **options)))
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))


def test_whole_numbers_are_told_apart_however_large() -> None:
    values = (GRAY % 256).astype(np.uint64) + np.uint64(2**64 - 300)
    assert values[0, 0] > 2**63
    np.testing.assert_array_equal(np.asarray(decode_bytes(_tiff(values))), _seen(GRAY % 256))


def test_a_bit_that_flips_under_a_checksum_is_noticed() -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    content = _tiff(smooth, compression="zlib")
    where = tifffile.TiffFile(io.BytesIO(content)).pages.first
    refused = 0
    for byte in range(where.dataoffsets[0], sum(where.dataoffsets + where.databytecounts)):
        damaged = bytearray(content)
        damaged[byte] ^= 4
        try:
            found = np.asarray(decode_bytes(bytes(damaged)))[..., 0]
        except UnreadableImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, smooth)
    assert refused > 10


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_few_bits_that_is_named_transparent_is_white(bits: int) -> None:
    values = RNG.integers(0, 2**bits, (8, 16))
    packed = np.packbits(
        (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(8, -1), axis=1
    )
    key = b"tRNS", struct.pack(">H", 1)
    content = _png_file((16, 8), bits, 0, [row.tobytes() for row in packed], key=key)
    expected = np.where(values == 1, 255, values * 255 // (2**bits - 1))
    np.testing.assert_array_equal(np.asarray(decode_bytes(content))[..., 0], expected)


@pytest.mark.parametrize("interlaced", [False, True])
def test_colors_of_pngs_are_scaled_together(interlaced: bool) -> None:
    found = decode_bytes(_png(COLOR, interlaced=interlaced))
    np.testing.assert_array_equal(np.asarray(found), _seen(COLOR))
    gray = decode_bytes(_png(GRAY, interlaced=interlaced))
    np.testing.assert_array_equal(np.asarray(gray), _seen(GRAY))


@pytest.mark.parametrize("colors", [GRAY, COLOR])
def test_transparency_is_laid_on_white(colors: NDArray[Any]) -> None:
    values = np.dstack([colors, ALPHA])
    share = ALPHA / 65535
    expected = _seen(colors) * share + 255 * (1 - share)
    photometric = "rgb" if colors is COLOR else "minisblack"
    tiff = _tiff(values.astype(np.uint16), photometric=photometric, extrasamples=["unassalpha"])
    for content in (_png(values), tiff):
        found = np.asarray(decode_bytes(content)).astype(float)
        assert np.abs(found - expected).max() <= 1.5  # Alpha is rounded to 8 bits too.


def test_a_color_that_is_named_transparent_is_white() -> None:
    for values in (GRAY, COLOR):
        first = np.atleast_1d(values[0, 0])
        hidden = (np.atleast_3d(values) == first).all(-1)
        key = b"tRNS", first.astype(">u2").tobytes()
        found = np.asarray(decode_bytes(_png(values, key)))
        assert (found[hidden] == 255).all()
        np.testing.assert_array_equal(found[~hidden], _seen(values)[~hidden])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed(orientation: int, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    Image.fromarray(_seen(COLOR)).save(tmp_path / "plain.png", exif=tag)
    upright = np.asarray(decode_file(tmp_path / "plain.png"))
    extra = [(0x0112, "H", 1, orientation, True)]
    tiff = _tiff(COLOR.astype(np.uint16), photometric="rgb", extratags=extra)
    png = _png(COLOR, (b"eXIf", tag.tobytes().removeprefix(b"Exif\0\0")))
    for content in (tiff, png):
        np.testing.assert_array_equal(np.asarray(decode_bytes(content)), upright)


def test_what_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.zeros((9, 9, 5), np.uint16)
    whole = _tiff(COLOR.astype(np.uint16), photometric="rgb", compression="lzw", rowsperstrip=5)
    stack = io.BytesIO()
    tifffile.imwrite(stack, np.zeros((3, 9, 9), np.uint8), imagej=True)
    one_page = bytearray(stack.getvalue())
    first = tifffile.TiffFile(io.BytesIO(one_page)).pages.first
    at = first.offset + 2 + 12 * len(first.tags)
    one_page[at : at + 4] = bytes(4)  # As ImageJ writes stacks of over 4 GB.
    several = io.BytesIO()
    tifffile.imwrite(several, np.zeros((3, 9, 9), np.uint8), truncate=True, photometric=1)
    stacked = several.getvalue()
    missing = GRAY.astype(np.float64)
    missing[3, 4] = np.nan
    for content, why in [
        (_tiff(wide, photometric="minisblack", planarconfig="contig"), "5 channels of 16 bits"),
        (_tiff(wide[..., :2], photometric="minisblack", planarconfig="contig"), "2 channels"),
        (_tiff(wide[..., :4], photometric="separated"), r"4 channels of 16 bits \(SEPARATED\)"),
        (_tiff(wide[..., :4], photometric="rgb", extrasamples=["assocalpha"]), "4 channels"),
        (_tiff(wide[..., :2].astype(np.uint8), photometric="minisblack", planarconfig="contig"),
         r"2 channels of 8 bits .* Save what you want to be seen"),
        (_tiff(GRAY.astype(np.complex64)), "complex64"),
        (_tiff(np.array([[-1.7e308, 1.7e308]])), "too far apart"),
        (stacked, "stack of 3 images behind one page"),
        (_tiff(missing), "NaN or infinity"),
        (whole[: len(whole) // 2], "truncated|corrupt|failed|reshaped"),
        (_png(COLOR)[:-900], "truncated"),
        (bytes(one_page), "stack of 3 images behind one page"),
    ]:  # fmt: skip
        with pytest.raises(UnreadableImageError, match=why):
            decode_bytes(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for content in (_tiff(GRAY.astype(np.uint16)), _png(COLOR)):
        with pytest.raises(UnreadableImageError, match="bomb: over 1,000 pixels"):
            decode_bytes(content)


def test_pages_that_pillow_does_not_know_are_chosen(image_folder: Path) -> None:
    pages = [RNG.random((20, 20)) for _ in range(3)]
    file = image_folder / "blue" / "pages.tif"
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page)
    second = load_images(image_folder, page=2)
    place = [Path(name).name for name in second.source.names].index("pages.tif")
    np.testing.assert_array_equal(np.asarray(second.source.open(place)), _seen(pages[1]))
    first, again = (digest_images(load_images(image_folder, page=page)) for page in (1, 2))
    assert np.flatnonzero((first != again).any(1)).tolist() == [place]
    with pytest.raises(UnreadableImageError, match="3 pages or frames"):
        decode_file(file)
