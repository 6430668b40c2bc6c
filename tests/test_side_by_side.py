"""Several networks side by side: which is better, by a paired test, and which is cheaper."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from codes import load_backbone
from pipelines.cli.app import main
from pipelines.comparison.held_out_answers import ANSWERS, Answers, read_answers, write_answers
from pipelines.drafts import replacing
from pipelines.report.networks import Standing, label, side_by_side
from pipelines.report.report import read_report, render_again
from pipelines.statistics.held_out import HeldOut
from tests.conftest import draw_image

QUICK = (
    "--layers", "fc6.relu,fc7.relu", "--cv", "3", "--Cs", "1e-3,1e-1",
    "--controls", "none", "--jobs", "1",
)  # fmt: skip


def _report(name: str, score: float, *, cost: float | None = None, **more: Any) -> dict[str, Any]:
    best = {
        "score": score, "layer": "relu", "classifier": "svm", "recommended": "relu",
        "recommended_classifier": "svm",
    }  # fmt: skip
    return {
        "backbone": {"name": name, "weights": more.pop("weights", "none")},
        "dataset": {"name": more.pop("dataset", "birds")},
        "best": best,
        "layers": [{"layer": "relu", "classifier": "svm", "n_features": 512}],
        "environment": {"device": "cpu"},
        "images_extracted": 10,
        "timing": {"extract": 0.5},
        "cost": {} if cost is None else {"relu": cost},
    } | more


def _answers(hits: np.ndarray, splits: str = "same") -> Answers:
    """Answers of one split to images of one class, right or wrong."""
    truth = np.zeros(len(hits), np.intp)
    return Answers(
        held_out=HeldOut(scoring="accuracy", truth=truth, n_classes=2),
        answers=np.where(hits, 0.0, 1.0)[None],
        scores=np.array([hits.mean()]),
        splits=splits,
    )


def _standing(*hits: np.ndarray) -> Any:
    reports = [_report(f"net{i}", float(h.mean())) for i, h in enumerate(hits)]
    return side_by_side(reports, [_answers(h) for h in hits])


def test_the_difference_of_two_networks_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(400) < 0.8
    other = np.where(rng.random(400) < 0.2, rng.random(400) < 0.4, one)
    standing = _standing(one, other)
    assert standing.best == 0
    differences = one.astype(float) - other
    own = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = np.array(standing.behind[1].replace("−", "-").strip(")").replace(" (", " ").split(" "))
    loss, low, high = (float(found[i]) for i in (0, 1, 3))
    assert loss == pytest.approx(differences.mean(), abs=6e-4)
    assert (low, high) == pytest.approx((own.low, own.high), abs=0.004)  # Drawn, so not exact.
    assert standing.sentences[0].startswith("net0 is better than net1 by ")
    # The same score and answers that differ by chance: no network is better.
    chance = _standing(one, rng.permutation(one))
    assert "cannot be distinguished from" in chance.sentences[0]
    assert "is better" not in chance.sentences[0]
    alike = _standing(one, one)
    assert "every image answered alike" in alike.sentences[0]


def test_in_twenty_rounds_of_chance_one_finds_a_better_network() -> None:
    rng = np.random.default_rng(1)
    rounds = [[rng.random(120) < 0.7 for _ in range(5)] for _ in range(100)]
    wrong = sum("is better" in _standing(*hits).sentences[0] for hits in rounds)
    assert wrong <= 11  # 5 % of 100, and 2.8 standard deviations.


def test_the_cheaper_network_is_named_where_it_is_known() -> None:
    fast, slow = _report("fast", 0.7, cost=0.004), _report("slow", 0.8, cost=0.02)
    said = side_by_side([fast, slow], [None, None])
    assert said.sentences[1].startswith("fast is the cheapest to compute: 4 ms an image on cpu")
    assert (said.times, said.features) == (["4 ms", "20 ms"], [512, 512])
    # Timed in another way, if not all were timed in this one.
    slow = _report("slow", 0.8) | {"images_extracted": 5}
    said = side_by_side([fast, slow], [None, None])
    assert said.times == ["50 ms", "100 ms"]
    # On different devices, or found in the store: not known.
    for more in ({"environment": {"device": "cuda"}}, {"images_extracted": 0}):
        said = side_by_side([_report("fast", 0.7), slow | more], [None, None])
        assert said.times == ["–", "–"]
        assert "not known" in said.sentences[1]


def test_values_of_similarity_without_a_border_say_so_beside_those_with_one() -> None:
    def shown(*found: tuple[float | None, str]) -> list[str]:
        reports = [
            _report(f"net{i}", 0.7) | {"similarity": {"value": value, "side": side}}
            for i, (value, side) in enumerate(found)
        ]
        return side_by_side(reports, [None] * len(found)).similarities

    mixed = shown((0.95, ""), (0.62, "similar"), (0.51, "close to the border"), (None, ""))
    assert mixed == ["0.95 (no border)", "0.62", "0.51", "–"]
    assert shown((0.95, ""), (0.5, ""), (None, "")) == ["0.95", "0.50", "–"]
    assert shown((0.62, "similar"), (0.2, "dissimilar"), (None, "")) == ["0.62", "0.20", "–"]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([{"name": "b"}], ["a", "b"]),
        ([{"weights": "/x/own.pth"}], ["a (V1)", "a (own.pth)"]),
        ([{"weights": "/x/own.pth"}, {"name": "b"}], ["a (V1)", "a (own.pth)", "b"]),
        ([{"dataset": "/data/cats"}], ["a (birds)", "a (cats)"]),
        ([{}], ["1: a", "2: a"]),
        ([{}, {"name": "b"}], ["1: a", "2: a", "3: b"]),
    ],
)
def test_every_network_has_a_name_of_its_own(
    others: list[dict[str, str]], expected: list[str]
) -> None:
    weights = {"weights": "A_Weights.V1"}
    reports = [_report(**{"name": "a", "score": 0.5} | weights | more) for more in ({}, *others)]
    assert label(reports) == expected


def _read_standing(folders: list[Path]) -> Standing:
    _, standing = render_again(folders, folders[0].parent / "again.html")
    assert standing is not None
    return standing


def _run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_networks_of_one_command_are_compared_image_by_image(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--backbone", "bundled", "--weights", "default", "--backbone", "bundled", "--weights")
    out = tmp_path / "both"
    options = (*QUICK, "--repeats", "1")
    assert _run("compare", image_folder, *both, "none", *options, "--out", out) == 0
    printed = capsys.readouterr().out
    folders = [out / "1-bundled", out / "2-bundled"]
    assert json.loads((folders[0] / "report.json").read_text())["backbone"]["weights"] == "bundled"
    for folder in folders:  # The last line of each names every file that is written.
        [line] = [line for line in printed.splitlines() if line.startswith(f"{folder}/")]
        assert {Path(name).name for name in line.split(", ")} == {f.name for f in folder.iterdir()}
    standing = _read_standing(folders)
    assert standing.sentences[0] in printed
    assert standing.sentences[0] in (out / "report.html").read_text()
    assert standing.behind[standing.best] is None
    loss = float(str(standing.behind[1 - standing.best]).split(" ")[0])
    scores = [read_report(folder)["best"]["score"] for folder in folders]
    assert loss == pytest.approx(abs(scores[0] - scores[1]), abs=6e-4)

    # The answers are known by the images' content, whatever the files are called.
    first = read_answers(folders[0] / ANSWERS)
    assert first is not None
    for file in image_folder.glob("*/*.png"):
        file.rename(file.with_name(f"x{file.name}"))
    renamed = tmp_path / "renamed"
    one = ("--backbone", "bundled", *options)
    assert _run("compare", image_folder, *one, "--out", renamed) == 0
    again = read_answers(renamed / ANSWERS)
    assert again is not None
    assert again.splits == first.splits
    np.testing.assert_array_equal(again.answers, first.answers)
    assert "paired differences" in _read_standing([folders[1], renamed]).sentences[0]

    # Other folds, a changed label, or no answers: not compared, and why is said.
    other = tmp_path / "other"
    assert _run("compare", image_folder, *one, "--random-state", "7", "--out", other) == 0
    assert "different images or folds" in _read_standing([folders[1], other]).sentences[0]
    (image_folder / "red" / "x00.png").rename(image_folder / "blue" / "y.png")
    assert _run("compare", image_folder, *one, "--out", other) == 0
    assert "different images or folds" in _read_standing([folders[1], other]).sentences[0]
    shutil.copy(other / ANSWERS, folders[0] / ANSWERS)
    assert "not those of its report.json" in _read_standing(folders).sentences[0]
    (folders[0] / ANSWERS).unlink()
    page = render_again(folders, tmp_path / "page.html")[0].read_text()
    assert "are not beside its report.json" in page
    assert _read_standing(folders).behind == [None, None]


def test_a_file_is_replaced_when_all_is_written_or_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    for text in ("old", "new"):
        with replacing(file) as draft:
            draft.write_text(text)
    with pytest.raises(TypeError), replacing(file) as draft:
        draft.write_text(b"no text")  # type: ignore[arg-type]
    assert [one.name for one in tmp_path.iterdir()] == ["report.md"]
    assert file.read_text() == "new"


def test_the_answers_that_are_kept_give_the_score_of_the_page(tmp_path: Path) -> None:
    rows = ["path,label,group,split"]
    for label_, name in enumerate(("a", "b")):
        for i in range(18):
            draw_image(50 * label_ + i, hue=label_).save(tmp_path / f"{name}{i}.png")
            split = "test" if i >= 12 else "train"
            rows.append(f"{name}{i}.png,{name},{name}{i // 2},{split}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    out = tmp_path / "out"
    words = ("--backbone", "bundled", *QUICK, "--train-sizes", "3", "--scoring", "accuracy")
    assert _run("compare", tmp_path / "data.csv", *words, "--out", out) == 0
    kept = read_answers(out / ANSWERS)
    assert kept is not None
    assert kept.answers.shape == (5, 12)
    hits = (kept.answers == kept.held_out.truth).mean(1)
    np.testing.assert_allclose(hits, kept.scores)
    assert hits.mean() == pytest.approx(read_report(out)["best"]["score"])
    assert kept.held_out.groups is not None
    assert len(np.unique(kept.held_out.groups)) == 6


def test_answers_of_any_score_are_kept_and_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    given = []
    for noise in (0.1, 5.0):
        decisions = rng.normal(0, noise, (2, 60, 3)) + np.eye(3)[truth]
        held_out = HeldOut(scoring="average_precision", truth=truth, n_classes=3)
        scores = [
            average_precision_score(np.eye(3)[truth], values, average="macro")
            for values in decisions
        ]
        answers = Answers(
            held_out=held_out, answers=decisions, scores=np.array(scores), splits="same"
        )
        write_answers(tmp_path / ANSWERS, answers)
        kept = read_answers(tmp_path / ANSWERS)
        assert kept is not None
        np.testing.assert_array_equal(kept.answers, decisions)
        assert (kept.held_out.scoring, kept.held_out.groups) == ("average_precision", None)
        given.append(kept)
    reports = [_report(f"net{i}", float(one.scores.mean())) for i, one in enumerate(given)]
    assert "net0 is better than net1 by" in side_by_side(reports, given).sentences[0]
    (tmp_path / ANSWERS).write_bytes(b"cut short")
    assert read_answers(tmp_path / ANSWERS) is None


def test_default_stands_for_the_weights_of_a_backbone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert load_backbone("bundled", weights="default").weights == "bundled"
    words = ["--backbone", "bundled", "--backbone", "alexnet", "--weights", "none"]
    assert main(["compare", "sklearn:digits", *words]) == 1
    assert re.search(r"2 backbones and 1 --weights .* default ", capsys.readouterr().err)
