"""CSV files: no row or column is read in another way than it was meant."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from codes import load_images
from tests.conftest import draw_image

HEADER = "path,label,group"


def _lines(n: int = 3) -> list[str]:
    return [f"{c}/{i:02d}.png,{c},p{c}{i}" for c in ("blue", "red") for i in range(n)]


def _write(folder: Path, *lines: str, end: str = "\n") -> Path:
    file = folder / "list.csv"
    file.write_bytes(end.join(lines).encode())
    return file


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("red/00.png,Melanoma, NOS,p1", "4 fields .*' NOS'.*header has 3.*Quote .*\"Melanoma, NOS"),
        ("red/00.png,red,p1,", "4 fields .*header has 3"),
        ("red/00.png,red", "2 fields .*header has 3"),
        ("red/00.png", "1 field .*header has 3"),
        ("red/00.png,,p1", "column label is empty"),
        ("red/00.png, ,p1", "column label is empty"),
        ('red/00.png,"red,p1', "not a valid row"),
        ('red/00.png,"red"dish,p1', "not a valid row"),
    ],
)
def test_a_row_that_does_not_fit_is_named_as_the_file_numbers_it(
    image_folder: Path, row: str, why: str, end: str
) -> None:
    before = ["", *_lines(1), f'blue/01.png,"blue{end}",p2', "", ""]
    file = _write(image_folder, HEADER, *before, row, *_lines(1), end=end)
    with pytest.raises(ValueError, match=f"line 9: .*{why}"):
        load_images(file)


def test_blank_lines_and_quoted_values_are_read_as_the_csv_module_reads_them(
    image_folder: Path,
) -> None:
    rows = [["blue/00.png", "a, b", "p\n1"], ["red/00.png", 'say "no"', "p2"]]
    file = image_folder / "list.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([[], HEADER.split(","), [], rows[0], [], rows[1], []])
    images = load_images(file)
    assert images.labels.tolist() == ["a, b", 'say "no"']
    assert images.groups is not None
    assert images.groups.tolist() == ["p\n1", "p2"]


@pytest.mark.parametrize(
    ("column", "near"),
    [
        *[("splits", "split"), ("Split_", "split"), ("spilt", "split"), ("split\u200b", "split")],
        *[("groups", "group"), ("gruop", "group"), ("grup", "group")],
        *[("labels", "label"), ("lable", "label"), ("Paths", "path"), ("pth", "path")],
    ],
)
def test_a_column_near_to_one_that_is_read_is_refused(
    image_folder: Path, column: str, near: str
) -> None:
    names = ["path", "label", "group"] if near != "split" else ["path", "label", "split"]
    header = ",".join(column if name == near else name for name in names)
    with pytest.raises(ValueError, match=rf"{re.escape(ascii(column.lower())[1:-1])}.*'{near}'"):
        load_images(_write(image_folder, header, *_lines()))


@pytest.mark.parametrize(
    "extra", ["patient", "age", "sex", "fold", "age_group", "labels", "paths", "site", "", "Label2"]
)
def test_columns_of_other_names_are_ignored(image_folder: Path, extra: str) -> None:
    """Also one that is near to a column which is there as well."""
    file = _write(image_folder, f"{extra},{HEADER}", *[f"7,{line}" for line in _lines()])
    images = load_images(file)
    assert images.ignored == {f"column {extra.lower()!r}": 6}
    assert images.labels.tolist() == ["blue"] * 3 + ["red"] * 3


@pytest.mark.parametrize("again", ["label", "Label", " LABEL ", "group", "Path"])
def test_a_column_that_is_there_twice_is_refused(image_folder: Path, again: str) -> None:
    file = _write(image_folder, f"{HEADER},{again}", *[f"{line},x" for line in _lines()])
    column = again.strip().lower()
    with pytest.raises(ValueError, match=rf"line 1\b.*{column}.*{again!r}"):
        load_images(file)


def test_a_value_below_no_name_is_refused(image_folder: Path) -> None:
    """Spreadsheets end lines with commas, which make room for a comma too many."""
    rows = [f"{line}," for line in _lines()]
    assert len(load_images(_write(image_folder, f"{HEADER},", *rows))) == 6
    rows[4] = "red/01.png,Melanoma, NOS,p1"
    with pytest.raises(ValueError, match=r"line 6\b.*'p1'"):
        load_images(_write(image_folder, f"{HEADER},", *rows))


def test_an_unknown_split_names_its_line(image_folder: Path) -> None:
    rows = ["blue/00.png,blue,Train", "", "red/00.png,red,exam"]
    with pytest.raises(ValueError, match=r"line 4\b.*'exam'"):
        load_images(_write(image_folder, "path,label,split", *rows))


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_in_two_forms_of_unicode_are_one(tmp_path: Path, on_disk: str) -> None:
    rows = []
    for i, form in enumerate(["NFC", "NFD"] * 2):
        place = f"Bär/ö{i}.png" if i < 2 else f"Kuh/ü{i}.png"
        file = tmp_path / unicodedata.normalize(on_disk, place)  # type: ignore[arg-type]
        file.parent.mkdir(exist_ok=True)
        draw_image(i).save(file)
        row = f"{place},{place.partition('/')[0]},Zoö"
        rows.append(unicodedata.normalize(form, row))  # type: ignore[arg-type]
    images = load_images(_write(tmp_path, unicodedata.normalize("NFD", HEADER), *rows))
    assert images.labels.tolist() == ["Bär"] * 2 + ["Kuh"] * 2
    assert images.groups is not None
    assert np.unique(images.groups).tolist() == ["Zoö"]
    for i in range(4):
        assert images.source.open(i).tobytes() == draw_image(i).tobytes()
    for row, split in enumerate(["train", "test"] * 2):
        rows[row] += f",{split}"
    with pytest.raises(ValueError, match="1 group"):
        load_images(_write(tmp_path, f"{HEADER},split", *rows))


def test_a_file_that_is_named_is_read_wherever_it_lies(image_folder: Path) -> None:
    hidden = image_folder / "@eaDir" / ".0.png"
    hidden.parent.mkdir()
    draw_image(7).save(hidden)
    images = load_images(_write(image_folder, HEADER, *_lines(1), "@eaDir/.0.png,red,p"))
    assert images.source.open(2).tobytes() == draw_image(7).tobytes()
