"""Copies of images: found as brute force finds them, and kept on one side of every fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ExtractionOptions, Protocol, compare
from pipelines.cli.app import main
from pipelines.comparison.duplicates import count_copies, find_leaks, group_copies
from pipelines.studies import stored_comparison
from tests.conftest import draw_image

LISTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.booleans(), st.sampled_from("pqrs")),
    min_size=1,
    max_size=12,
)


@given(LISTS)
def test_leaks_are_those_of_brute_force(images: list[tuple[int, str, bool, str]]) -> None:
    digests = np.array([[0, image] for image, *_ in images], np.uint8)
    labels = np.array([label for _, label, *_ in images])
    test = np.array([is_test for _, _, is_test, _ in images])
    names = [str(i) for i in range(len(images))]
    expected = set()
    for image in {image for image, *_ in images}:
        copies = [i for i in range(len(images)) if images[i][0] == image]
        if len({images[i][2] for i in copies}) == 2:
            expected.add(("in train and test", tuple(names[i] for i in copies)))
        if len({images[i][1] for i in copies}) == 2:
            expected.add(("under two labels", tuple(names[i] for i in copies)))
    found = {(leak.kind, leak.images) for leak in find_leaks(digests, names, labels, test)}
    assert found == expected
    assert all(leak.kind != "in train and test" for leak in find_leaks(digests, names, labels))


@given(LISTS)
def test_groups_with_copies_are_the_connected_ones(
    images: list[tuple[int, str, bool, str]],
) -> None:
    digests = np.array([[image] for image, *_ in images], np.uint8)
    groups = np.array([group for *_, group in images])
    n = len(images)
    linked = (digests == digests.T) | (groups[:, None] == groups)
    for _ in range(n):
        linked = linked @ linked
    merged = group_copies(digests, groups)
    assert merged is not None
    np.testing.assert_array_equal(merged[:, None] == merged, linked)


def test_copies_are_warned_of_and_listed(
    image_folder: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "cut" / split)
    draw_image(999).save(tmp_path / "cut" / "train" / "red" / "new.png")
    out = tmp_path / "out"
    done = run_cli(
        "compare", tmp_path / "cut", "--backbone", "bundled", "--layers", "fc7.relu", "--cv", "3",
        "--Cs", "1e-3:1e-1:3", "--jobs", "1", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "36 of 36 test images" in done.stderr
    page = (out / "report.html").read_text()
    assert "36 of 36 test images" in page
    assert page.count("<li>in train and test:") == 36


@given(LISTS)
def test_repeated_images_are_counted_as_by_brute_force(
    images: list[tuple[int, str, bool, str]],
) -> None:
    digests = np.array([[0, image] for image, *_ in images], np.uint8)
    labels = np.array([label for _, label, *_ in images])
    test = np.array([is_test for _, _, is_test, _ in images])
    for sides in (test, None):
        kinds = [
            (image, label, is_test and sides is not None) for image, label, is_test, _ in images
        ]
        assert count_copies(digests, labels, sides) == len(kinds) - len(set(kinds))


def test_repeated_images_are_said_once(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(2):
        shutil.copy(image_folder / "red" / "00.png", image_folder / "red" / f"again{i}.png")
    words = ["--backbone", "bundled", "--layers", "fc7.relu", "--cv", "3", "--Cs", "1e-2,1",
             "--repeats", "1", "--jobs", "1"]  # fmt: skip
    said = "2 images repeat another with the same label"
    assert main(["compare", str(image_folder), *words, "--controls", "none",
                 "--out", str(tmp_path)]) == 0  # fmt: skip
    told = capsys.readouterr()
    assert (told.out + told.err).count(said) == 1
    assert "on one side of every fold" in told.out
    assert main(["fit", str(image_folder), *words, "--no-group-duplicates",
                 "--out", str(tmp_path / "m.skops")]) == 0  # fmt: skip
    assert f"{said} " in capsys.readouterr().err


@pytest.mark.parametrize("together", [True, False])
def test_copies_share_a_fold_unless_told_otherwise(
    together: bool, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        shutil.copy(image_folder / "red" / f"{i:02d}.png", image_folder / "red" / f"copy{i}.png")
    seen: list[Any] = []
    compare_layers = stored_comparison.compare_layers

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(options["groups"])
        return compare_layers(*arguments, **options)

    monkeypatch.setattr(stored_comparison, "compare_layers", spy)
    protocol = Protocol(cv=2, Cs=(0.01, 1.0), group_duplicates=together)
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu")
    extraction = compare(image_folder, options=options, protocol=protocol).extraction
    [groups] = seen
    if together:
        names = [Path(name).stem for name in extraction.images.source.names]
        group_of = dict(zip(names[-18:], groups[-18:], strict=True))
        assert all(group_of[f"copy{i}"] == group_of[f"{i:02d}"] for i in range(6))
        assert len(set(groups)) == len(groups) - 6
    else:
        assert groups is None
