"""Datasets in every form, and files that are no images."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.digests import DigestMemory
from codes import load_images
from codes.data.images import digest_images
from codes.data.sources import FileSource
from codes.decoding.colors import to_rgb
from codes.decoding.decode import UnreadableImageError, decode_file
from tests.conftest import draw_image


def _write_csv(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_class_folders(image_folder: Path) -> None:
    (image_folder / "red" / "notes.txt").write_text("not an image")
    (image_folder / "red" / ".hidden.png").write_text("not an image")
    (image_folder / "red" / "deeper").mkdir()
    draw_image(999).save(image_folder / "red" / "deeper" / "one.JPG")
    (image_folder / "none").mkdir()
    images = load_images(image_folder)
    assert dict(zip(*np.unique(images.labels, return_counts=True), strict=True)) == {
        "blue": 12, "green": 12, "red": 13,
    }  # fmt: skip
    assert images.ignored == {".txt": 1, "folder without images": 1, "hidden file": 1}
    assert images.splits is None


def test_split_folders_take_the_usual_names(image_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        shutil.copytree(image_folder, tmp_path / "cut" / name)
    images = load_images(tmp_path / "cut")
    names, counts = np.unique(images.splits, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"test": 36, "train": 36, "validation": 36}


def test_a_csv_holds_what_its_columns_say(image_folder: Path) -> None:
    rows = [
        {"path": f"{c}/{i:02d}.png", "label": c, "split": s, "group": f"patient {s} {i}"}
        for c, s in (("blue", "train"), ("red", "test"), ("red", "train"))
        for i in range(3)
    ]
    file = _write_csv(image_folder / "list.csv", rows)
    # A heading in capitals must not silently let patients stand on both sides of a fold.
    file.write_text(file.read_text().replace("group", "Group ", 1).replace("split", "SPLIT", 1))
    images = load_images(file)
    assert images.labels.tolist() == [row["label"] for row in rows]
    assert images.splits is not None
    assert images.splits.tolist() == [row["split"] for row in rows]
    assert images.groups is not None
    assert images.groups.tolist() == [row["group"] for row in rows]
    assert images.source.open(0).shape[2:] == (3,)


def test_a_group_in_train_and_test_is_refused(image_folder: Path) -> None:
    rows = [
        {"path": f"{c}/{i:02d}.png", "label": c, "split": s, "group": f"patient {i}"}
        for c in ("blue", "red")
        for i, s in enumerate(("train", "validation", "test"))
    ]
    file = _write_csv(image_folder / "list.csv", rows)
    assert load_images(file).groups is not None
    with file.open("a") as lines:
        lines.write("red/05.png,red,train,patient 2\n")
    with pytest.raises(ValueError, match="patient"):
        load_images(file)


def test_what_is_ignored_is_counted(image_folder: Path) -> None:
    (image_folder / "red" / "scan.jp2").write_bytes(b"0")
    (image_folder / "stray.png").write_bytes(b"0")
    (image_folder / "blue" / "link.png").symlink_to("nowhere.png")
    images = load_images(image_folder)
    assert images.ignored == {".jp2": 1, "beside the class folders": 1}
    assert len(images) == 37
    broken = next(i for i, name in enumerate(images.source.names) if name.endswith("link.png"))
    assert len(np.unique(digest_images(images), axis=0)) == 37
    with pytest.raises(UnreadableImageError, match="No such file"):
        images.source.open(broken)
    rows = [{"path": f"{c}/00.png", "label": c, "patient": "1"} for c in ("red", "blue")]
    assert load_images(_write_csv(image_folder / "list.csv", rows)).ignored == {
        "column 'patient'": 2
    }


def test_images_are_known_by_content(image_folder: Path, tmp_path: Path) -> None:
    images = load_images(image_folder)
    digests = digest_images(images)
    first = Path(images.source.names[0])
    assert digests[0].tobytes() == hashlib.sha256(first.read_bytes()).digest()
    shutil.copytree(image_folder, tmp_path / "moved")
    (tmp_path / "moved" / "blue").rename(tmp_path / "moved" / "zebra")
    moved = digest_images(load_images(tmp_path / "moved"))
    assert {d.tobytes() for d in moved} == {d.tobytes() for d in digests}
    taken = images.take(np.array([5, 2]))
    assert np.array_equal(digest_images(taken), digests[[5, 2]])
    assert taken.source.names == [images.source.names[5], images.source.names[2]]


def test_digits_keep_every_level_of_ink() -> None:
    images = load_images("sklearn:digits")
    assert len(np.unique(images.source.arrays)) == 17  # type: ignore[attr-defined]
    assert len({d.tobytes() for d in digest_images(images)}) == 1797


def test_modes_become_rgb_without_clipping(tmp_path: Path) -> None:
    wide = np.array([[1000, 1500], [2000, 3000]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    assert np.asarray(decode_file(tmp_path / "wide.tif"))[..., 0].tolist() == [[0, 64], [128, 255]]
    Image.new("RGBA", (1, 1), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode_file(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (2, 2), 7).save(tmp_path / "gray.png")
    assert decode_file(tmp_path / "gray.png").getpixel((1, 1)) == (7, 7, 7)
    Image.new("CMYK", (2, 2)).save(tmp_path / "ink.jpg")
    assert decode_file(tmp_path / "ink.jpg").mode == "RGB"
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=tag)
    assert decode_file(tmp_path / "turned.jpg").size == (2, 4)
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_image_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    draw_image(0, size=(200, 200)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    frames = [draw_image(i) for i in range(3)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    for name, why in {
        "empty.png": "empty",
        "text.jpg": "not an image",
        "truncated.jpg": "truncated",
        "pages.tif": "3 pages",
        "gone.png": "No such file",
    }.items():
        with pytest.raises(UnreadableImageError, match=why):
            decode_file(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="bomb"):
        decode_file(tmp_path / "whole.jpg")


@pytest.mark.parametrize("page", [None, 1])
def test_a_pipe_among_images_is_an_unreadable_one(image_folder: Path, page: int | None) -> None:
    os.mkfifo(image_folder / "blue" / "pipe.png")
    (image_folder / "blue" / "zero.png").symlink_to("/dev/zero")
    images = load_images(image_folder, page=page)
    assert len(digest_images(images)) == len(images) == 38
    for name in ("pipe.png", "zero.png"):
        place = [Path(path).name for path in images.source.names].index(name)
        with pytest.raises(UnreadableImageError, match="no file"):
            images.source.open(place)


def test_folders_with_nothing_to_classify(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_images(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"name is empty\. Say \. for"):
        load_images("")
    os.mkfifo(tmp_path / "pipe.jpg")
    for endless in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(FileNotFoundError, match="does not exist, or is not a file"):
            load_images(endless)
    (tmp_path / "flat").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        load_images(tmp_path / "flat")
    (tmp_path / "flat" / "a").mkdir()
    with pytest.raises(ValueError, match="no image in them"):
        load_images(tmp_path / "flat")
    for name in ("blue", "green"):
        shutil.rmtree(image_folder / name)
    with pytest.raises(ValueError, match="'red'"):
        load_images(image_folder, min_classes=3)
    (image_folder / "train").mkdir()
    (image_folder / "test").mkdir()
    with pytest.raises(ValueError, match=r"\(red\)"):
        load_images(image_folder)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("path,class\na.png,b\n", ValueError, "lacks the column label; it has path, class"),
        ("", ValueError, "lacks the column path and label; it has none"),
        ("path,label\n", ValueError, "no rows"),
        ("path,label\nabsent.png,a\nb.png,b\n", FileNotFoundError, "2 of 2 images"),
        ("path,label\nabsent.png,\n", ValueError, "line 2: the column label is empty"),
        ("path,label\nabsent.png\n", ValueError, "line 2: it has 1 field .*header has 2"),
    ],
)
def test_bad_csv_files(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(error, match=message):
        load_images(tmp_path / "list.csv")


def test_a_csv_with_an_unknown_split_or_encoding(image_folder: Path) -> None:
    rows = [{"path": f"{c}/00.png", "label": c, "split": "exam"} for c in ("red", "blue")]
    with pytest.raises(ValueError, match=r"'exam'.*train, validation, test"):
        load_images(_write_csv(image_folder / "list.csv", rows))
    (image_folder / "list.csv").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        load_images(image_folder / "list.csv")


def test_datasets_that_are_not_read() -> None:
    with pytest.raises(ValueError, match="sklearn:digits"):
        load_images("sklearn:wine")


def test_what_lies_beside_the_classes_of_every_split_is_counted(
    image_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "cut" / split)
        (tmp_path / "cut" / split / "stray.png").write_bytes(b"0")
    assert load_images(tmp_path / "cut").ignored == {"beside the class folders": 2}


def test_a_file_that_cannot_be_read_is_never_known_twice(image_folder: Path) -> None:
    (image_folder / "red" / "link.png").symlink_to("nowhere.png")
    images = load_images(image_folder)
    twice = [digest_images(images) for _ in range(2)]
    same = (twice[0] == twice[1]).all(axis=1)
    assert [
        name for name, is_same in zip(images.source.names, same, strict=True) if not is_same
    ] == [str(image_folder / "red" / "link.png")]


def test_damaged_metadata_is_no_warning_and_changes_no_pixel(tmp_path: Path) -> None:
    image = draw_image(3)
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05\x01\x12\x00\x03"
    for name, metadata in (("plain.jpg", b""), ("damaged.jpg", exif)):
        image.save(tmp_path / name, exif=metadata)
    with (
        pytest.warns(UserWarning, match="Corrupt EXIF"),
        Image.open(tmp_path / "damaged.jpg") as it,
    ):
        it.getexif().get(0x0112)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pixels = [np.asarray(decode_file(tmp_path / n)) for n in ("plain.jpg", "damaged.jpg")]
    assert not said
    np.testing.assert_array_equal(*pixels)


@pytest.mark.parametrize("names", [("train", "tset"), ("validation", "test")])
def test_splits_of_other_names_are_no_classes(
    names: tuple[str, str], image_folder: Path, tmp_path: Path
) -> None:
    for name in names:
        shutil.copytree(image_folder, tmp_path / "cut" / name)
    with pytest.raises(ValueError, match="look like splits"):
        load_images(tmp_path / "cut")
    # A class may be called train: of trains.
    shutil.copytree(image_folder / "red", tmp_path / "vehicles" / "train" / "steam")
    shutil.copytree(image_folder / "blue", tmp_path / "vehicles" / "car" / "electric")
    assert set(load_images(tmp_path / "vehicles").labels) == {"train", "car"}


def test_many_files_are_read_by_several_threads_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(file)
        os.utime(file, (0, 0))
    images = load_images(tmp_path / "images")
    expected = [hashlib.sha256(Path(name).read_bytes()).digest() for name in images.source.names]
    monkeypatch.setattr("cache.digests.SETTLED", -1e9)  # Files just made are remembered too.
    monkeypatch.setattr("cache.digests.KEPT_TOGETHER", 7)
    threads, done = set(), []
    digest = FileSource._digest

    def noting(source: FileSource, index: int) -> bytes:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return digest(source, index)

    monkeypatch.setattr(FileSource, "_digest", noting)
    for known in (False, True):
        threads.clear()
        done.clear()
        with DigestMemory(tmp_path / "digests.sqlite") as memory:
            found = digest_images(images, memory=memory, advance=done.append)
        assert [row.tobytes() for row in found] == expected
        assert sum(done) == 200
        assert (len(threads) == 0) if known else (len(threads) == min(4, os.cpu_count() or 1))
