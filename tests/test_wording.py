"""Numbers agree with their nouns, in what is printed and on the pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipelines.cli.app import main
from tests.conftest import draw_image

PLURAL = re.compile(
    r"(?<![\d.,:/-])1 (?:images|classes|classifiers|copies|layers|labels|parts|pages|values|files"
    r"|groups|are|were|have|\w+ images)\b"
)


def test_one_of_each_is_in_the_singular(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, name in (("train", "blue"), ("train", "green"), ("test", "blue"), ("test", "green")):
        folder = tmp_path / "d" / split / name
        folder.mkdir(parents=True)
        for file in sorted((image_folder / name).iterdir())[: 6 if split == "train" else 1]:
            shutil.copy(file, folder / file.name)
    draw_image(7).save(tmp_path / "d" / "test" / "green" / "new.png")
    (tmp_path / "d" / "test" / "green" / "00.png").unlink()  # One copy of a training image is left.
    (tmp_path / "d" / "train" / "blue" / "bad.png").write_bytes(b"no image")
    options = ["--backbone", "bundled", "--layers", "fc7.relu", "--cv", "2", "--Cs", "1e-2",
               "--repeats", "1", "--jobs", "1", "--skip-unreadable"]  # fmt: skip
    data, out, model = str(tmp_path / "d"), tmp_path / "out", str(tmp_path / "m.skops")
    few = ["--controls", "none", "--classifier", "svm", "--train-sizes", "2,99"]
    assert main(["compare", data, *options, *few, "--out", str(out)]) == 0
    said = [capsys.readouterr()]
    assert "1 classifier " in said[0].err
    assert "1 skipped" in said[0].out
    assert main(["compare", data, *options, *few, "--drop-leaks", "--out", str(out / "b")]) == 0
    assert main(["fit", data, *options, "--out", model]) == 0
    assert main(["cache", "list"]) == 0
    assert main(["cache", "prune", "--older-than", "9w", "--dry-run"]) == 0
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "d" / "test" / "green" / "new.png", tmp_path / "one")
    assert main(["predict", model, str(tmp_path / "one")]) == 0
    assert main(["predict", model, str(tmp_path / "one")]) == 0
    assert main(["similarity", str(tmp_path / "one"), "--backbone", "bundled"]) == 0
    said.append(capsys.readouterr())
    texts = [text for found in said for text in found]
    texts += [(out / name).read_text() for name in ("report.html", "report.md")]
    assert [match[0] for text in texts for match in PLURAL.finditer(text)] == []
