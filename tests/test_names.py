"""Folders and files that are no part of a dataset, and names in several forms of Unicode."""

from __future__ import annotations

import io
import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codes import load_images
from codes.data.images import digest_images
from codes.data.readers.datasets import list_images
from tests.conftest import draw_image

HIDDEN = ("@eaDir", ".@__thumb", ".ipynb_checkpoints", "__MACOSX", ".git", "#recycle", "@Recycle",
          "$RECYCLE.BIN", "System Volume Information", ".thumbnails")  # fmt: skip


def _pack(folder: Path, kind: str, top: str = ".") -> Path:
    """Give the folder itself, or it packed, without or with its own name."""
    if kind == "folder":
        return folder
    base = str(folder if top == "." else folder.parent)
    return Path(shutil.make_archive(f"{folder}-packed", kind, base, top))


def _add_hidden(folder: Path) -> dict[str, int]:
    """Put small copies of all images into hidden folders beside them, and more; count these."""
    for file in list(folder.rglob("*.png")):
        for name in ("@eaDir", ".@__thumb"):
            below = file.parent / name / file.name
            below.mkdir(parents=True)
            with Image.open(file) as image:
                image.resize((9, 9)).save(below / "thumb.JPG")
            (below / "notes.txt").write_text("no image")
    for name in HIDDEN:
        (folder / name / "deeper").mkdir(parents=True, exist_ok=True)
        draw_image(0).save(folder / name / "deeper" / "0.png")
    some = next(folder.rglob("00.png"))
    some.with_name("._00.png").write_bytes(b"what a Mac adds")
    some.with_name("Thumbs.db").write_bytes(b"what Windows adds")
    found = {f"hidden folder {name}": sum(1 for _ in folder.rglob(name)) for name in HIDDEN}
    assert found["hidden folder @eaDir"] in (1 + 3, 1 + 2 * 3)
    return found | {"hidden file": 1}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("top", [".", "images"])
@pytest.mark.parametrize("cut", [False, True])
def test_what_systems_add_is_ignored_at_every_depth_and_counted(
    image_folder: Path, kind: str, top: str, cut: bool
) -> None:
    if cut:
        classes = image_folder.rename(image_folder.with_name("classes"))
        for split in ("train", "test"):
            shutil.copytree(classes, image_folder / split)
    plain = load_images(image_folder)
    hidden = _add_hidden(image_folder)
    found = load_images(_pack(image_folder, kind, top))
    assert found.labels.tolist() == plain.labels.tolist()
    np.testing.assert_array_equal(digest_images(found), digest_images(plain))
    assert found.ignored == hidden


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_predict_ignores_them_too(image_folder: Path, kind: str) -> None:
    for name in HIDDEN:
        (image_folder / "red" / name).mkdir()
        draw_image(0).save(image_folder / "red" / name / "0.png")
    found = list_images([_pack(image_folder, kind)])
    assert len(found) == 36
    assert found.ignored == {f"hidden folder {name}": 1 for name in HIDDEN}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_dataset_below_a_hidden_folder_is_read(
    image_folder: Path, tmp_path: Path, kind: str
) -> None:
    home = tmp_path / ".data" / "@eaDir"
    home.mkdir(parents=True)
    moved = Path(shutil.move(image_folder, home / ".birds"))
    dataset = moved
    if kind != "folder":
        dataset = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, ".data"))
    assert len(load_images(dataset)) == len(list_images([dataset])) == 36
    (moved / "red" / "@eaDir").mkdir()
    draw_image(0).save(moved / "red" / "@eaDir" / "0.png")
    assert load_images(moved).ignored == {"hidden folder @eaDir": 1}


def test_hidden_folders_of_the_system_alone_are_no_error(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (image_folder / "lost+found").mkdir()
    scan = os.scandir

    def refuse(path: Path) -> object:
        if "lost+found" in str(path):
            raise PermissionError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(load_images(image_folder)) == 36


def test_shards_ignore_them(tmp_path: Path) -> None:
    kept = io.BytesIO()
    draw_image(0).save(kept, "PNG")
    for shard in ("a/birds-0.tar", "@eaDir/birds-1.tar"):
        (tmp_path / shard).parent.mkdir()
        with tarfile.open(tmp_path / shard, "w") as archive:
            for name in ("a.png", "b.png", "@eaDir/a.png", "@eaDir/a.cls", "._a.png", "x/._b.png"):
                member = tarfile.TarInfo(name)
                member.size = len(kept.getvalue())
                archive.addfile(member, io.BytesIO(kept.getvalue()))
            for name, label in (("a.cls", "Bär"), ("b.cls", unicodedata.normalize("NFD", "Kuhü"))):
                member = tarfile.TarInfo(name)
                member.size = len(label.encode())
                archive.addfile(member, io.BytesIO(label.encode()))
    for pattern in ("a/birds-*.tar", "*/birds-*.tar"):
        images = load_images(f"wds:{tmp_path}/{pattern}")
        assert images.labels.tolist() == ["Bär", "Kuhü"]
        assert images.ignored == {"hidden folder @eaDir": 1, "hidden file": 2}
    assert len(load_images(f"wds:{tmp_path}/@eaDir/*.tar")) == 2


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_without_images_beside_the_splits_are_ignored(
    image_folder: Path, tmp_path: Path, kind: str
) -> None:
    cut = tmp_path / "cut"
    for name in ("train", "test"):
        shutil.copytree(image_folder, cut / name)
    for name, content in {
        "cnn-codes-report/report.html": "a page", "cnn-codes-report/scores.csv": "layer",
        "__pycache__/backbone.pyc": "code", "notes/more/readme.txt": "text",
    }.items():  # fmt: skip
        (cut / name).parent.mkdir(parents=True, exist_ok=True)
        (cut / name).write_text(content)
    draw_image(0).save(cut / "stray.png")
    images = load_images(_pack(cut, kind))
    assert len(images) == 72
    assert images.ignored == {"folder without images": 3, "beside the class folders": 1}
    draw_image(0).save(cut / "notes" / "more" / "0.png")
    with pytest.raises(ValueError, match=r"\(notes\)"):
        load_images(_pack(cut, kind))


def _in_folders(folder: Path, place: str, image: Image.Image) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / place)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_class_in_two_forms_of_unicode_is_one(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "animals"
    for split, form in (("train", "NFC"), ("test", "NFD")):
        for name in ("Bär", "Kuh"):
            place = unicodedata.normalize(form, f"{split}/{name}/0.png")  # type: ignore[arg-type]
            _in_folders(folder, place, draw_image(0))
    _in_folders(folder, unicodedata.normalize("NFD", "train/Bär/1.png"), draw_image(1))
    images = load_images(_pack(folder, kind))
    assert images.splits is not None
    found = sorted(zip(images.splits.tolist(), images.labels.tolist(), strict=True))
    assert found == [
        ("test", "Bär"), ("test", "Kuh"), ("train", "Bär"), ("train", "Bär"), ("train", "Kuh")
    ]  # fmt: skip
    assert len({images.source.open(i).tobytes() for i in range(5)}) == 2


def test_classes_of_published_datasets_are_compared_in_one_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import torchvision

    decomposed = unicodedata.normalize("NFD", "Bär")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["Bär", decomposed, "Kuh"])}
    )
    draw_image(0).save(tmp_path / "0.png")
    rows = {"image": [str(tmp_path / "0.png")] * 3, "label": [0, 1, 2]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "table")
    assert load_images(f"hf:{tmp_path}/table").labels.tolist() == ["Bär", "Bär", "Kuh"]

    class Zoo(torchvision.datasets.VisionDataset):
        classes = ("Bär", decomposed, "Kuh")
        targets = (0, 1, 2)

        def __init__(self) -> None:
            super().__init__(tmp_path)

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr(torchvision.datasets, "Zoo", Zoo, raising=False)
    assert load_images("torchvision:Zoo").labels.tolist() == ["Bär", "Bär", "Kuh"]


def test_one_class_in_two_forms_is_one_class(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        _in_folders(tmp_path, unicodedata.normalize(form, "d/Bär/0.png"), draw_image(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1 class .*'Bär'"):
        load_images(tmp_path / "d")
