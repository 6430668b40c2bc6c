"""Images that are packed in archives, in files of several pages, or in published datasets."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torchvision
from PIL import Image

from codes import load_images
from codes.data.images import digest_images
from codes.data.readers.datasets import list_images
from codes.decoding.decode import UnreadableImageError
from pipelines import ExtractionOptions
from pipelines.extraction.extract import extract
from pipelines.extraction.left_out import UnreadableImagesError
from pipelines.extraction.transformer import CodesTransformer
from tests.conftest import draw_image

OPTIONS = ExtractionOptions(backbone="bundled", layers="fc7.relu", workers=2, batch_size=8)


def _zip(folder: Path, file: Path, top: str = "") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/red/._00.png", b"what a Mac adds")
        for path in sorted(folder.rglob("*")):
            archive.write(path, top + path.relative_to(folder).as_posix())
    return file


def _tar(folder: Path, file: Path, top: str = "") -> Path:
    with tarfile.open(file, "w") as archive:
        archive.add(folder, arcname=f"./{top}")
    return file


@pytest.mark.parametrize("top", ["", "birds/", "home/birds/"])
@pytest.mark.parametrize(("pack", "ending"), [(_zip, ".zip"), (_tar, ".tar")])
def test_a_packed_folder_is_the_folder(
    pack: Callable[[Path, Path, str], Path], ending: str, top: str, image_folder: Path
) -> None:
    (image_folder / "red" / "notes.txt").write_text("no image")
    (image_folder / "red" / "deeper").mkdir()
    draw_image(999).save(image_folder / "red" / "deeper" / "one.JPG")
    packed = load_images(pack(image_folder, image_folder.with_name(f"packed{ending}"), top))
    plain = load_images(image_folder)
    assert packed.labels.tolist() == plain.labels.tolist()
    assert plain.ignored == {".txt": 1}
    assert packed.ignored == plain.ignored | ({"hidden folder __MACOSX": 1} if pack is _zip else {})
    np.testing.assert_array_equal(digest_images(packed), digest_images(plain))
    for i in range(len(plain)):
        assert packed.source.open(i).tobytes() == plain.source.open(i).tobytes()


def test_codes_of_a_packed_folder_are_those_of_the_folder(image_folder: Path) -> None:
    for i in range(60, 240):  # Enough for two processes to decode them.
        draw_image(i).save(image_folder / "red" / f"{i}.png")
    packed = load_images(_zip(image_folder, image_folder.with_name("packed.zip")))
    done = extract(packed, OPTIONS)
    assert done.n_extracted == len(np.unique(done.digests, axis=0)) > 200
    again = extract(load_images(image_folder), OPTIONS)
    assert again.n_extracted == 0
    np.testing.assert_array_equal(done.codes("fc7.relu"), again.codes("fc7.relu"))


def test_splits_may_be_packed_together_or_each(image_folder: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    for name in ("train", "test"):
        shutil.copytree(image_folder, cut / name)
    each = tmp_path / "each"
    each.mkdir()
    _zip(cut / "train", each / "train.zip", "train/")
    _tar(cut / "test", each / "Test.tar")
    mixed = tmp_path / "mixed"
    shutil.copytree(image_folder, mixed / "train")
    _tar(cut / "test", mixed / "test.tar")
    for form in (cut, _zip(cut, tmp_path / "cut.zip", "birds/"), each, mixed):
        images = load_images(form)
        names, counts = np.unique(images.splits, return_counts=True)
        assert dict(zip(names, counts, strict=True)) == {"test": 36, "train": 36}
        assert images.source.open(71).shape[2:] == (3,)
    (mixed / "other").mkdir()
    assert load_images(mixed).ignored == {"folder without images": 1}
    draw_image(0).save(mixed / "other" / "0.png")
    with pytest.raises(ValueError, match=r"\(other\)"):
        load_images(mixed)


def test_damaged_and_compressed_archives_are_refused(image_folder: Path, tmp_path: Path) -> None:
    packed = _zip(image_folder, tmp_path / "whole.zip")
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:-100])
    (tmp_path / "text.tar").write_text("no archive, but long enough to be looked at" * 99)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(image_folder, arcname="birds")
    shutil.copy(tmp_path / "all.tar.gz", tmp_path / "named.tar")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name, what in {
        "cut.zip": "cannot be read as an archive",
        "text.tar": "cannot be read as an archive",
        "all.tar.gz": "compressed as a whole.*gunzip",
        "named.tar": "compressed as a whole.*gunzip",
        "empty.zip": "holds no file",
    }.items():
        with pytest.raises(ValueError, match=what):
            load_images(tmp_path / name)


def _field(content: bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 2], "little")


def _swallow(content: bytearray, entry: int) -> None:
    """Make the next file's entry a comment on this one."""
    following = entry + 46 + sum(_field(content, entry + at) for at in (28, 30, 32))
    length = 46 + sum(_field(content, following + at) for at in (28, 30, 32))
    content[entry + 32 : entry + 34] = length.to_bytes(2, "little")


def _from_the_future(content: bytearray, entry: int) -> None:
    content[entry + 6] = 255


def _no_utf8(content: bytearray, entry: int) -> None:
    content[entry + 9] |= 8
    content[entry + 46] = 0xFF


def _endless(content: bytearray, entry: int) -> None:
    """Give the size as 2⁶⁴ - 1 bytes."""
    extra = entry + 46 + _field(content, entry + 28)
    content[entry + 24 : entry + 28] = b"\xff" * 4
    content[extra + 4 : extra + 12] = b"\xff" * 8


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_swallow, "should hold 4 entries, its list has 3"),
        (_from_the_future, "zip file version 25.5"),
        (_no_utf8, "invalid start byte"),
        (_endless, "int"),
    ],
)
@pytest.mark.parametrize("comment", [b"", b"packed by us"])
def test_a_damaged_list_of_files_is_refused(
    damage: Callable[[bytearray, int], None], why: str, comment: bytes, tmp_path: Path
) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.comment = comment
        for i in range(4):
            member = zipfile.ZipInfo(f"{i % 2}/{i}.png")
            member.extra = b"\1\0\x08\0" + bytes(8)  # Where sizes of more than 4 GB stand.
            archive.writestr(member, b"a file")
    with zipfile.ZipFile(packed) as archive:
        entry = archive.start_dir
    content = bytearray(packed.read_bytes())
    damage(content, entry)
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=f"{why}"):
        load_images(packed)


def test_the_size_of_a_file_in_a_tar_that_cannot_be(tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("a/0.png")
        member.size = 2**70
        archive.addfile(member)
    with pytest.raises(ValueError, match="cannot be read as an archive"):
        load_images(packed)


def test_a_zip_of_more_files_than_its_old_fields_count(tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for i in range(2**16 + 4):
            archive.writestr(f"{i % 2}/{i}.png", b"")
        entry = archive.start_dir
    assert len(load_images(packed)) == 2**16 + 4
    content = bytearray(packed.read_bytes())
    _swallow(content, entry)
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"65,540.*65,539"):
        load_images(packed)


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ("middle", "archive: .*(this file|decompressing).*"),
        ("header", "archive: its header is damaged"),
    ],
)
def test_damage_within_an_archive_is_an_unreadable_image(
    at: str, why: str, image_folder: Path
) -> None:
    packed = _zip(image_folder, image_folder.with_name("packed.zip"))
    with zipfile.ZipFile(packed) as archive:
        member = archive.getinfo("red/03.png")
    content = bytearray(packed.read_bytes())
    start = member.header_offset
    content[start if at == "header" else start + 40 + member.compress_size // 2] ^= 0xFF
    packed.write_bytes(content)
    with pytest.raises(UnreadableImagesError, match=rf"1 of 36 .*\n.*red/03.png: .*{why}"):
        extract(load_images(packed), OPTIONS)


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_an_archive_that_changes_while_it_is_read(
    pack: Callable[[Path, Path], Path], image_folder: Path
) -> None:
    packed = pack(image_folder, image_folder.with_name(f"packed.{pack.__name__[1:]}"))
    images = load_images(packed)
    before = packed.stat()
    # Another image of the same size, at the same place.
    content = packed.read_bytes().replace(b"red/00", b"red/xx").replace(b"red/01", b"red/00")
    packed.write_bytes(content.replace(b"red/xx", b"red/01"))
    os.utime(packed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(UnreadableImageError, match="changed"):
        images.source.open(0)
    packed_again = packed.rename(packed.with_name("moved"))
    with pytest.raises(UnreadableImageError, match="removed"):
        images.source.open(0)
    for there in (packed, packed_again):
        packed_again = packed_again.rename(there)
        for skip in (False, True):  # To skip what can be read would be to lose it.
            options = dataclasses.replace(OPTIONS, skip_unreadable=skip)
            with pytest.raises(UnreadableImagesError, match=r"^36 of 36 .*run it again\.$"):
                extract(images, options)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_of_zip(method: int, image_folder: Path) -> None:
    packed = image_folder.with_name("packed.zip")
    packed.write_bytes(b"a program that unpacks what follows")
    with zipfile.ZipFile(packed, "a", method) as archive:
        for file in image_folder.rglob("*.png"):
            name = file.relative_to(image_folder).as_posix()
            # As written to a pipe, or of more than 4 GB: sizes behind the content, long fields.
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(file.read_bytes())
    np.testing.assert_array_equal(
        digest_images(load_images(packed)), digest_images(load_images(image_folder))
    )


def test_files_of_one_name_are_told(image_folder: Path) -> None:
    packed = _zip(image_folder, image_folder.with_name("packed.zip"))
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(image_folder / "red/00.png", "red/01.png")
    images = load_images(packed)
    assert images.ignored == {
        "followed by another file of the same name": 1,
        "hidden folder __MACOSX": 1,
    }
    at = [name.removeprefix(f"{packed}/") for name in images.source.names]
    first, second = (images.source.open(at.index(name)) for name in ("red/00.png", "red/01.png"))
    assert first.tobytes() == second.tobytes(), "the last counts"
    assert list_images([packed]).ignored == images.ignored


def test_links_in_a_zip_lead_where_they_do_in_a_tar(image_folder: Path) -> None:
    (image_folder / "red" / "first.png").symlink_to("00.png")
    (image_folder / "red" / "more").symlink_to("../blue")
    names = ["red/first.png", "red/more"]
    tar = _tar(image_folder, image_folder.with_name("packed.tar"))
    packed = image_folder.with_name("packed.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(image_folder.rglob("*")):
            name = path.relative_to(image_folder).as_posix()
            if name in names:  # As `zip --symlinks` writes them.
                link = zipfile.ZipInfo(name)
                link.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(link, os.readlink(path))
            elif path.is_file():
                archive.write(path, name)
    of_zip, of_tar, of_folder = (load_images(place) for place in (packed, tar, image_folder))
    assert len(of_zip) == len(of_tar) == len(of_folder) > 36 + 1
    assert of_zip.labels.tolist() == of_tar.labels.tolist() == of_folder.labels.tolist()
    np.testing.assert_array_equal(digest_images(of_zip), digest_images(of_folder))
    np.testing.assert_array_equal(digest_images(of_tar), digest_images(of_folder))


def test_links_that_lead_back_end(image_folder: Path) -> None:
    (image_folder / "red" / "all").symlink_to("..")
    names = load_images(image_folder).source.names
    assert len(names) == len(set(names)) == 36 + 24, "those of the other two classes, once more"


def test_times_in_a_tar_are_no_part_of_names(image_folder: Path) -> None:
    # GNU tar's incremental archives have times where the others' names begin.
    packed = image_folder.with_name("packed.tar")
    with tarfile.open(packed, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(image_folder, arcname="./")
    content = bytearray(packed.read_bytes())
    at, n_headers = 0, 0
    with tarfile.open(packed) as archive:
        places = [member.offset for member in archive]
    for n_headers, at in enumerate(places, 1):
        assert content[at + 257 : at + 265] == b"ustar  \0"
        content[at + 345 : at + 357] = f"{13602760400 + n_headers:o}".encode().ljust(12, b"\0")
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    packed.write_bytes(content)
    assert n_headers > 36
    images, plain = load_images(packed), load_images(image_folder)
    assert images.labels.tolist() == plain.labels.tolist()
    np.testing.assert_array_equal(digest_images(images), digest_images(plain))


def test_a_zip_under_another_name(image_folder: Path) -> None:
    packed = _zip(image_folder, image_folder.with_name("packed.tar"))
    assert len(load_images(packed)) == 36


def test_a_page_is_chosen_where_images_are_listed(image_folder: Path) -> None:
    images = load_images(image_folder, page=1)
    options = dataclasses.replace(OPTIONS, page=2)
    with pytest.raises(ValueError, match=r"page=2\b.*page=1\b"):
        extract(images, options)
    assert extract(images, dataclasses.replace(OPTIONS, page=1)).n_extracted == 36


def test_what_is_encrypted_in_an_archive_is_said_to_be(image_folder: Path) -> None:
    packed = _zip(image_folder, image_folder.with_name("packed.zip"))
    with zipfile.ZipFile(packed) as archive:
        member = archive.getinfo("red/03.png")
        directory = archive.start_dir
    content = bytearray(packed.read_bytes())
    listed = content.index(b"red/03.png", directory) - 46
    for at in (member.header_offset + 6, listed + 8):  # Where the flags of a file stand.
        content[at] |= 1
    packed.write_bytes(content)
    with pytest.raises(UnreadableImagesError, match=r"red/03\.png.*encrypted"):
        extract(load_images(packed), OPTIONS)


def test_a_tar_that_ends_too_early_is_refused(image_folder: Path) -> None:
    tar = _tar(image_folder, image_folder.with_name("packed.tar"))
    whole = tar.read_bytes()
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        end = archive.offset
    middle = members[len(members) // 2].offset
    header = bytearray(whole)
    header[middle + 148] ^= 1  # In its checksum.
    for content, why in [
        (bytes(header), f"what stands at byte {middle:,} names no file"),
        (whole[:middle], "mark of its end is missing"),
        (whole[:end], "mark of its end is missing"),
        (whole[:middle] + bytes(2**17), f"from byte {middle:,} on it is empty"),
        (whole + whole, f"more follows its end at byte {end:,}"),
        (whole[: middle + 100], f"what stands at byte {middle:,} names no file"),
        (whole[: middle + 600], "unexpected end of data|empty header"),
    ]:
        tar.write_bytes(content)
        with pytest.raises(ValueError, match=why):
            load_images(tar)
    tar.write_bytes(whole[: end + tarfile.BLOCKSIZE])
    assert len(load_images(tar)) == 36


def test_links_in_a_tar_are_what_they_lead_to(image_folder: Path) -> None:
    red, blue = image_folder / "red", image_folder / "blue"
    (red / "hard.png").hardlink_to(red / "00.png")
    (red / "soft.png").symlink_to("hard.png")
    (blue / "other.png").symlink_to("../red/soft.png")
    (image_folder / "pink").symlink_to("red")
    plain = load_images(image_folder)
    (blue / "broken.png").symlink_to("nowhere.png")
    (blue / "loop.png").symlink_to("loop.png")
    packed = load_images(_tar(image_folder, image_folder.with_name("packed.tar")))
    assert len(packed) == len(plain) + 2 == 36 + 3 + 14 + 2
    names = [Path(name).name for name in packed.source.names]
    bad = [names.index("broken.png"), names.index("loop.png")]
    for index, target in zip(bad, ("nowhere", "loop"), strict=True):
        with pytest.raises(UnreadableImageError, match=f"link to 'blue/{target}.png', which"):
            packed.source.open(index)
    kept = np.setdiff1d(np.arange(len(packed)), bad)
    assert packed.labels[kept].tolist() == plain.labels.tolist()
    np.testing.assert_array_equal(digest_images(packed)[kept], digest_images(plain))


@pytest.mark.parametrize("start", ["/data/", "../", "a/../../"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_an_archive_stay_in_it(
    image_folder: Path, start: str, kind: str
) -> None:
    packed = image_folder.with_name(f"packed.{kind}")
    plain = load_images(image_folder)
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for file in image_folder.rglob("*.png"):
                archive.write(file, file.relative_to(image_folder))
                archive.filelist[-1].filename = f"{start}{file.relative_to(image_folder)}"
                archive.filelist[-1].orig_filename = archive.filelist[-1].filename
        with zipfile.ZipFile(packed) as archive:
            written = {info.filename: archive.getinfo(info.filename) for info in archive.filelist}
        assert any(name.startswith(start) for name in written)
    else:
        with tarfile.open(packed, "w") as archive:
            for file in image_folder.rglob("*.png"):
                member = archive.gettarinfo(file)
                member.name = f"{start}{file.relative_to(image_folder)}"
                archive.addfile(member, io.BytesIO(file.read_bytes()))
    images = load_images(packed)
    assert images.labels.tolist() == plain.labels.tolist()


def test_slashes_of_windows_are_slashes(image_folder: Path) -> None:
    packed = image_folder.with_name("packed.zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in image_folder.rglob("*.png"):
            name = str(file.relative_to(image_folder)).replace("/", "\\")
            archive.writestr(name, file.read_bytes())
    plain, images = load_images(image_folder), load_images(packed)
    assert images.labels.tolist() == plain.labels.tolist()
    np.testing.assert_array_equal(digest_images(images), digest_images(plain))


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_that_are_no_text(image_folder: Path, kind: str, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (image_folder / "blue").rename(image_folder / odd)
    (image_folder / odd / "00.png").rename(image_folder / odd / f"{odd}.png")
    place = image_folder
    if kind == "tar":
        place = _tar(image_folder, tmp_path / f"{odd}.tar")
    for n_extracted in (36, 0):
        done = extract(load_images(place), OPTIONS)
        assert done.n_extracted == n_extracted
    assert sum(label == "caf\\udce9" for label in done.images.labels) == 12
    assert "\n".join([done.images.name, *done.images.source.names]).encode().count(b"udce9") >= 12


def test_an_archive_to_predict_is_a_list_of_images(image_folder: Path) -> None:
    packed = _zip(image_folder, image_folder.with_name("packed.zip"))
    images = list_images([image_folder / "red" / "00.png", packed, image_folder / "blue"])
    assert len(images) == 1 + 36 + 12
    with pytest.raises(ValueError, match="not a single image"):
        CodesTransformer().transform([packed])


def test_pages_are_chosen(image_folder: Path) -> None:
    pages = [draw_image(i) for i in (500, 501, 502)]
    for label in ("red", "blue"):
        file = image_folder / label / "pages.tif"
        pages[0].save(file, save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableImagesError, match=r"3 pages or frames.*--page"):
        extract(load_images(image_folder), OPTIONS)
    second = load_images(image_folder, page=2)
    place = [Path(name).name for name in second.source.names].index("pages.tif")
    assert second.source.open(place).tobytes() == pages[1].tobytes()
    assert second.source.open(0).shape[2:] == (3,)  # A file of one page is read as it is.
    third = load_images(image_folder, page=3)
    assert second.source.digest(place) != third.source.digest(place)
    packed = load_images(_zip(image_folder, image_folder.with_name("packed.zip")), page=2)
    np.testing.assert_array_equal(digest_images(packed), digest_images(second))
    with pytest.raises(UnreadableImagesError, match=r"3 pages, and --page 4"):
        extract(load_images(image_folder, page=4), OPTIONS)
    with pytest.raises(ValueError, match="pages count from 1"):
        load_images(image_folder, page=0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_page_is_asked_of_files_with_several_only(image_folder: Path, packed: bool) -> None:
    pages = [draw_image(i) for i in (500, 501)]
    pages[0].save(image_folder / "blue" / "pages.tif", save_all=True, append_images=pages[1:])
    place = _zip(image_folder, image_folder.with_name("packed.zip")) if packed else image_folder
    with pytest.raises(UnreadableImagesError, match="1 of 37 images"):
        extract(load_images(place), OPTIONS)
    first = extract(load_images(place, page=1), OPTIONS)
    assert (first.n_extracted, first.n_reused) == (1, 36), "those with one page were read before"
    second = extract(load_images(place, page=2), OPTIONS)
    assert (second.n_extracted, second.n_reused) == (1, 36)


def test_a_photograph_with_previews_behind_it_is_one_picture(image_folder: Path) -> None:
    file, others = image_folder / "blue" / "photo.jpg", [draw_image(501), draw_image(502)]
    draw_image(500).save(file, format="MPO", save_all=True, append_images=others)
    with Image.open(file) as opened:
        assert opened.n_frames == 3
        first = np.asarray(opened.convert("RGB"))
    for page in (None, 2):
        images = load_images(image_folder, page=page)
        place = [Path(name).name for name in images.source.names].index("photo.jpg")
        np.testing.assert_array_equal(np.asarray(images.source.open(place)), first)


class _Published(torchvision.datasets.VisionDataset):
    """Stands in for a dataset that cannot be downloaded here."""

    classes = ("cat", "dog")

    def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(split)
        super().__init__(root)
        self.targets = [0, 1, 1] if split == "train" else [1]
        self.start = {"train": 0, "val": 3, "test": 4}[split]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return draw_image(self.start + index), self.targets[index]


def test_datasets_of_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNN_CODES_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "Pets", _Published, raising=False)
    images = load_images("torchvision:Pets")
    assert images.labels.tolist() == ["cat", "dog", "dog", "dog", "dog"]
    assert images.splits is not None
    assert images.splits.tolist() == ["train"] * 3 + ["validation", "test"]
    for i in range(5):
        assert images.source.open(i).tobytes() == draw_image(i).tobytes()
    assert len(np.unique(digest_images(images), axis=0)) == 5

    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(OSError, match=r"CIFAR10.*CNN_CODES_DATA"):
        load_images("torchvision:CIFAR10")
    with pytest.raises(ValueError, match="no dataset 'Nix'"):
        load_images("torchvision:Nix")
    with pytest.raises(ValueError, match="arguments of its own"):
        load_images("torchvision:CocoDetection")


def test_what_is_in_memory_only_is_decoded_alike() -> None:
    from codes.decoding.decode import decode_bytes

    kept = io.BytesIO()
    draw_image(1).save(kept, "PNG")
    assert decode_bytes(kept.getvalue()).tobytes() == draw_image(1).tobytes()
    with pytest.raises(UnreadableImageError, match="empty"):
        decode_bytes(b"")


def test_webdataset_shards(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"birds-{shard:03d}.tar", "w") as archive:
            for i in range(6):
                kept = io.BytesIO()
                draw_image(10 * shard + i).save(kept, "PNG")
                name = f"sample.{shard}{i}" if i == 0 else f"sample{shard}{i}"
                parts = {"seg.png" if i == 1 else "png": kept.getvalue(),
                         "cls": str(i % 3).encode(), "json": b"{}"}  # fmt: skip
                for ending, content in parts.items():
                    member = tarfile.TarInfo(f"./{name}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    images = load_images(f"wds:{tmp_path}/birds-*.tar")
    assert images.labels.tolist() == ["0", "1", "2", "0", "1", "2"] * 2
    assert images.ignored == {".json": 12}
    drawn = {draw_image(10 * shard + i).tobytes() for shard in range(2) for i in range(6)}
    assert {images.source.open(i).tobytes() for i in range(12)} == drawn
    with pytest.raises(FileNotFoundError, match="No file is of the pattern"):
        load_images(f"wds:{tmp_path}/cats-*.tar")
    with tarfile.open(tmp_path / "birds-002.tar", "w") as archive:
        member = tarfile.TarInfo("alone.png")
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"\.cls"):
        load_images(f"wds:{tmp_path}/birds-*.tar")
    unlabelled = load_images(f"wds:{tmp_path}/birds-*.tar", min_classes=0)  # To predict.
    assert unlabelled.labels.tolist() == [*images.labels.tolist(), ""]


def _shard(file: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_samples_of_webdataset_that_are_not_one_image_and_its_label(tmp_path: Path) -> None:
    kept = io.BytesIO()
    draw_image(1).save(kept, "PNG")
    image = kept.getvalue()
    good = [("a.png", image), ("a.cls", b"0"), ("b.png", image), ("b.cls", b"1")]
    for more, why in [
        ([("a.png", image), ("a.cls", b"2")], r"several images or labels, such as 'a\.png'"),
        ([("b.seg.png", image)], "several images or labels, such as 'b'"),
        ([("c.png", image), ("c.cls", b" ")], r"'c\.cls' of .* is empty"),
    ]:
        _shard(tmp_path / "birds.tar", good + more)
        with pytest.raises(ValueError, match=why):
            load_images(f"wds:{tmp_path}/birds.tar")
    _shard(tmp_path / "birds.tar", [*good, ("c.cls", b"2")])
    assert load_images(f"wds:{tmp_path}/birds.tar").ignored == {".cls without an image": 1}


def test_hugging_face_datasets(image_folder: Path, tmp_path: Path) -> None:
    plain = load_images(image_folder)
    classes = sorted(set(plain.labels.tolist()))
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=classes)}
    )
    rows = {"picture": plain.source.names, "kind": [classes.index(k) for k in plain.labels]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table.select(range(5))}).save_to_disk(
        tmp_path / "both"
    )
    found = load_images(f"hf:{tmp_path}/both")
    assert found.labels.tolist() == [*plain.labels.tolist(), *plain.labels[:5].tolist()]
    assert found.splits is not None
    assert found.splits.tolist() == ["train"] * 36 + ["test"] * 5
    np.testing.assert_array_equal(digest_images(found)[:36], digest_images(plain))
    assert found.source.open(40).tobytes() == plain.source.open(4).tobytes()
    table.save_to_disk(tmp_path / "one")
    assert load_images(f"hf:{tmp_path}/one").splits is None
    done = extract(load_images(f"hf:{tmp_path}/one"), OPTIONS)
    assert extract(plain, OPTIONS).n_extracted == 0
    assert len(done.digests) == 36
    gaps = [None, {"bytes": b"", "path": None}]
    holes = datasets.Dataset.from_dict({"picture": gaps, "kind": [0, 1]}, features=features)
    holes.save_to_disk(tmp_path / "holes")
    for index, why in enumerate(["no image there", "empty"]):
        with pytest.raises(UnreadableImageError, match=why):
            load_images(f"hf:{tmp_path}/holes").source.open(index)
    table.remove_columns("kind").save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"picture.*Image"):
        load_images(f"hf:{tmp_path}/bare")
    unlabelled = load_images(f"hf:{tmp_path}/bare", min_classes=0)  # To predict.
    assert unlabelled.labels.tolist() == [""] * 36
    hidden = {"picture": plain.source.names[:3], "kind": [1, -1, None]}  # As test sets hide them.
    datasets.Dataset.from_dict(hidden, features=features).save_to_disk(tmp_path / "hidden")
    with pytest.raises(ValueError, match=r"2 of 3 .*row 1\b"):
        load_images(f"hf:{tmp_path}/hidden")
    unlabelled = load_images(f"hf:{tmp_path}/hidden", min_classes=0)
    assert unlabelled.labels.tolist() == [classes[1], "", ""]
