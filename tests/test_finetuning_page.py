"""What the report says of fine-tuning, against brute force, scikit-learn and the networks."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from torch import nn

from codes import load_backbone
from pipelines import compare
from pipelines.comparison.protocol import finetuned_name
from pipelines.finetuning.calibration import (
    calibrate,
    calibration_error,
    confidence_bins,
    tempered,
)
from pipelines.report.figures.filters import filters_picture
from pipelines.report.figures.finetuning import loss_curves
from pipelines.report.finetuning_rows import fit_verdict, linear_rows, measured_cases
from pipelines.report.page import render, render_markdown
from pipelines.report.report import make_report, write_report
from pipelines.studies.network_study import NetworkStudy
from pipelines.training.options import FinetuneOptions
from tests.test_page import CHROMIUM, _seen


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits of 20 images each."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for label, name in enumerate(("none", "one", "two")):
        for i, row in enumerate(images[labels == label][:20]):
            of = folder / ("test" if i >= 11 else "train") / name
            of.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8))
            pixels.resize((48, 48), Image.Resampling.BICUBIC).save(of / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def study(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> NetworkStudy:
    """Fine-tuning at three sizes, of which the smaller ones are drawn five times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.finetuning.finetune.EPOCHS_MEMORIZED", 2)
        return compare(
            digits, backbone="bundled", layers="conv5.relu,fc7.relu", Cs=(1e-3, 1e-1), cv=3,
            train_sizes=(3, 4, "all"), controls="none", store=str(tmp_path_factory.mktemp("store")),
            finetune=FinetuneOptions(
                starts="input,fc6", scratch=True, epochs=2, views_cached=1, lr=1e-3,
                weight_decay=1e-4,
            ),
        )  # fmt: skip


@pytest.fixture(scope="module")
def report(study: NetworkStudy) -> dict[str, Any]:
    return make_report(study)


def _records(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {record["start"]: record for record in report["finetune"]}


def _predictions(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    log_proba = log_softmax(rng.normal(size=(n, 4)) * 3, axis=1)
    return log_proba, rng.integers(0, 4, n)


def _error(log_proba: np.ndarray, truth: np.ndarray) -> float:
    """Compute the expected calibration error, bin by bin and image by image."""
    total = 0.0
    for k in range(10):
        inside = [
            (float(np.exp(row.max())), float(row.argmax() == label))
            for row, label in zip(log_proba, truth, strict=True)
            if k / 10 < np.exp(row.max()) <= (k + 1) / 10
        ]
        total += abs(sum(p - right for p, right in inside))
    return total / len(truth)


@pytest.mark.parametrize("n", [1, 7, 400])
def test_bins_of_confidence_are_those_of_scikit_learn(n: int) -> None:
    log_proba, truth = _predictions(n, n)
    bins = confidence_bins(log_proba, truth)
    right = log_proba.argmax(1) == truth
    accuracy, confidence = calibration_curve(right, np.exp(log_proba.max(1)), n_bins=10)
    assert [bin.accuracy for bin in bins] == pytest.approx(accuracy)
    assert [bin.confidence for bin in bins] == pytest.approx(confidence)
    assert sum(bin.n for bin in bins) == n
    assert min(bin.n for bin in bins) > 0
    assert calibration_error(bins) == pytest.approx(_error(log_proba, truth))


def test_a_temperature_keeps_predictions_and_is_a_softmax() -> None:
    log_proba, _ = _predictions(50, 0)
    cooler = tempered(log_proba, 2.5)
    np.testing.assert_allclose(cooler, log_softmax(log_proba / 2.5, axis=1))
    assert (cooler.argmax(1) == log_proba.argmax(1)).all()


def test_confidence_is_calibrated_on_the_validation_images_of_the_chosen_setting(
    study: NetworkStudy, report: dict[str, Any]
) -> None:
    scored = study.comparison.scored
    numbers, split = scored.samples.numbers, scored.splits[-1]
    assert split.train_size == "all"
    for found in study.finetuned:
        [chosen] = [one for one in found.chosen if one.searched]
        validated = [split.train[validation] for _, validation in split.inner]
        log_proba = [outcome.log_proba for outcome in chosen.best.outcomes]
        # These are the images: their labels give the score that chose the setting.
        scores = [
            accuracy_score(numbers[images], of.argmax(1))
            for images, of in zip(validated, log_proba, strict=True)
        ]
        assert np.mean(scores) == pytest.approx(chosen.best.score)
        temperature = calibrate(log_proba, [numbers[images] for images in validated])
        tested, truth = found.outcomes[-1].log_proba, numbers[split.test]
        reliability = _records(report)[found.name]["reliability"]
        assert reliability["temperature"] == pytest.approx(temperature)
        assert reliability["error_before"] == pytest.approx(_error(tested, truth))
        after = log_softmax(tested / temperature, axis=1)
        assert reliability["error"] == pytest.approx(_error(after, truth))
        assert sum(bin["n"] for bin in reliability["bins"]) == len(truth)
        accuracy = sum(bin["n"] * bin["accuracy"] for bin in reliability["bins"]) / len(truth)
        assert accuracy == pytest.approx(accuracy_score(truth, tested.argmax(1)))


def test_without_test_images_each_fold_is_calibrated_by_its_own_search(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.finetuning.finetune.EPOCHS_MEMORIZED", 2)
    nested = compare(
        digits / "train", backbone="bundled", layers="fc7.relu", Cs=(1e-2,), cv=3, controls="none",
        finetune=FinetuneOptions(starts="fc7", epochs=2, views_cached=1, augment="flip", lr=0.01),
    )  # fmt: skip
    numbers, splits = nested.comparison.scored.samples.numbers, nested.comparison.scored.splits
    [found], [record] = nested.finetuned, make_report(nested)["finetune"]
    temperatures = [
        calibrate(
            [outcome.log_proba for outcome in chosen.best.outcomes],
            [numbers[split.train[validation]] for _, validation in split.inner],
        )
        for split, chosen in zip(splits, found.chosen, strict=True)
    ]
    after = np.concatenate(
        [
            log_softmax(outcome.log_proba / temperature, axis=1)
            for outcome, temperature in zip(found.outcomes, temperatures, strict=True)
        ]
    )
    truth = np.concatenate([numbers[split.test] for split in splits])
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(33))
    assert len({round(temperature, 4) for temperature in temperatures}) == 3
    assert record["reliability"]["error"] == pytest.approx(_error(after, truth))
    assert record["reliability"]["temperature"] == pytest.approx(np.median(temperatures))


def test_what_is_shown_of_a_start_is_of_the_largest_training_size(
    study: NetworkStudy, report: dict[str, Any]
) -> None:
    assert [record["start"] for record in report["finetune"]] == [
        found.name for found in study.finetuned
    ]
    for found in study.finetuned:
        record = _records(report)[found.name]
        # Searches are in the order of sizes, of which the smaller ones are too small for a choice.
        assert [one.searched for one in found.chosen] == [False, False, True]
        assert record["searched"]
        assert len(record["trials"]) == len(found.chosen[-1].tried)
        assert record["setting"] == vars(found.chosen[-1].best.setting)
        assert record["loss"] == found.outcomes[-1].curve.loss


def test_settings_that_diverged_are_counted_and_flatten_no_curve(report: dict[str, Any]) -> None:
    records = copy.deepcopy(report["finetune"])
    before = loss_curves(records, 6)
    assert before is not None
    assert " beyond " not in before
    records[0]["trials"] += [{"loss": [1e6, None]}, {"loss": [1.0, 1e5]}, {"loss": [None, None]}]
    after = loss_curves(records, 6)
    assert after is not None
    assert "3 settings beyond " in after
    # The tick labels of the axis of losses.
    assert max(float(n) for n in re.findall(r">(\d+(?:\.\d+)?)</text>", after)) < 20


def test_each_start_says_what_it_cost(study: NetworkStudy, report: dict[str, Any]) -> None:
    n_images, n_trained = len(study.extraction.images), 33
    for found in study.finetuned:
        record = _records(report)[found.name]
        searched = sum(
            outcome.seconds
            for chosen in found.chosen
            for tried in chosen.tried
            for outcome in tried.outcomes
        )
        trained = sum(outcome.seconds for outcome in found.outcomes)
        assert len(found.outcomes) == 11
        assert record["seconds"] == pytest.approx(searched + trained)
        values = int(np.prod(found.start.shape))  # As float16; a random view of those that train.
        assert record["gigabytes"] == pytest.approx((n_images + n_trained) * values * 2 / 1e9)


def _pixels(url: str) -> np.ndarray:
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_filters_of_the_first_layer_are_shown_before_and_after(
    study: NetworkStudy, report: dict[str, Any]
) -> None:
    records = _records(report)
    assert records["fc6"]["filters"] is None
    modules = load_backbone("bundled").model.get_submodule("conv1").modules()
    first = next(module for module in modules if isinstance(module, nn.Conv2d))
    own = first.weight.detach().numpy()
    [found] = [found for found in study.finetuned if found.name == "input"]
    after = found.outcomes[-1].filters
    shown = records["input"]["filters"]
    change = np.sqrt(((after - own) ** 2).sum() / (own**2).sum())
    assert 0 < change == pytest.approx(shown["change"])
    assert (shown["n"], shown["shown"]) == (len(own), len(own))
    for url, filters in ((shown["before"], own), (shown["after"], after)):
        assert url == filters_picture(filters)
    # Random weights are other filters.
    assert records["scratch"]["filters"]["before"] != shown["before"]


@pytest.mark.parametrize(("n", "size"), [(1, 3), (6, 11), (32, 3), (70, 7)])
def test_each_filter_is_scaled_to_its_own_range(n: int, size: int) -> None:
    rng = np.random.default_rng(n)
    filters = rng.normal(size=(n, 3, size, size)).astype(np.float32)
    filters *= rng.uniform(0.01, 100, (n, 1, 1, 1)).astype(np.float32)
    pixels = _pixels(filters_picture(filters))
    columns = int(np.ceil(np.sqrt(min(n, 64))))
    side = pixels.shape[1] // columns
    times = (side - 2) // size
    assert max(pixels.shape[:2]) <= 400
    shown = 0
    for row in range(pixels.shape[0] // side):
        for column in range(columns):
            tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert (tile[0, :, 3] == 0).all()  # Transparent between the filters.
            number = row * columns + column
            if number >= min(n, 64):
                assert (tile == 0).all()
                continue
            shown += 1
            own = filters[number].transpose(1, 2, 0)
            expected = 255 * (own - own.min()) / (own.max() - own.min())
            inside = tile[1:-1, 1:-1]
            for offset in (0, times - 1):  # A value is a square of pixels.
                got = inside[offset::times, offset::times, :3].astype(float)
                np.testing.assert_allclose(got, expected, atol=0.51)
    assert shown == min(n, 64)


def test_a_filter_without_contrast_is_drawn() -> None:
    assert _pixels(filters_picture(np.ones((2, 3, 3, 3), np.float32))).shape[2] == 4


def _row(layer: str, classifier: str, depth: float, cv_score: float) -> dict[str, Any]:
    return {"layer": layer, "classifier": classifier, "depth": depth, "cv_score": cv_score}


def test_the_four_cases_are_given_what_was_measured_of_them() -> None:
    linear = [
        _row("a", "svm", 0.2, 0.6), _row("b", "svm", 0.6, 0.8), _row("b", "logistic", 0.6, 0.7),
        _row("c", "svm", 1.0, 0.4), _row("c", "logistic", 1.0, 0.5),
    ]  # fmt: skip
    trained = [
        _row("input", "finetune", 0.0, 0.9), _row("l2", "finetune", 0.5, 0.85),
        _row("l3", "finetune", 0.7, 0.95), _row("scratch", "finetune", 0.0, 0.3),
    ]  # fmt: skip

    def found(rows: list[dict[str, Any]]) -> dict[tuple[bool, bool], list[tuple[str, str]]]:
        return {
            case: [(row["layer"], row["classifier"]) for row in of]
            for case, of in measured_cases(rows).items()
        }

    top, earlier = (False, True), (False, False)
    assert found([*linear, *trained]) == {
        top: [("c", "logistic")],
        earlier: [("b", "svm")],
        (True, True): [("l3", "finetune")],
        (True, False): [("input", "finetune"), ("scratch", "finetune")],
    }
    alone = found(linear)
    assert alone == {top: [("c", "logistic")], earlier: [("b", "svm")]} | {
        (True, True): [], (True, False): [],
    }  # fmt: skip
    assert found(linear[3:])[earlier] == []
    places = [(row["layer"], row["place"]) for row in linear_rows([*linear, *trained])]
    assert places == [("c", "the last depth"), ("b", "the best depth")]
    assert [row["place"] for row in linear_rows(linear[3:])] == ["the best depth"]


def test_the_verdict_is_of_shares_also_where_the_score_is_a_loss() -> None:
    assert fit_verdict(np.log(0.99), np.log(0.7), "neg_log_loss") == "overfitting"
    assert fit_verdict(np.log(0.95), np.log(0.93), "neg_log_loss") == "neither"
    assert fit_verdict(np.log(0.5), np.log(0.48), "neg_log_loss") == "underfitting"


def _cells(page: str, css: str) -> list[list[str]]:
    """Read the rows of a table, without markup."""
    [table] = re.findall(rf'<table class="{css}">(.*?)</table>', page, re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [
        [
            re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", cell).replace("&#34;", '"')).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def test_the_page_says_what_each_case_scores_here(report: dict[str, Any]) -> None:
    rows = {
        (row["layer"], row["classifier"]): row
        for row in report["layers"]
        if row["train_size"] == "all"
    }
    _, small, large = _cells(render([report]), "table2")

    def said(layer: str, classifier: str) -> str:
        row = rows[layer, classifier]
        return f"{row['score']:.3f} ({row['ci_low']:.3f} – {row['ci_high']:.3f})"

    assert said("fc7.relu", "svm") in small[1]
    assert said("conv5.relu", "svm") in small[2]
    assert said("fc6", "finetune") in large[1]
    assert said("input", "finetune") in large[2]
    assert "scratch: " + said("scratch", "finetune") in large[2]
    case = report["advice"]["case"]
    framed = render([report]).count('class="here"')
    assert framed == int(case not in ("no-better-than-guessing", "no-network-needed"))


def test_the_page_compares_training_with_validation_and_says_what_to_do(
    report: dict[str, Any],
) -> None:
    report = copy.deepcopy(report)
    scores = {"fc6": (1.0, 0.7), "input": (0.9, 0.85), "scratch": (0.4, 0.35)}
    for row in report["layers"]:
        if row["classifier"] == "finetune":
            row["train_score"], row["cv_score"] = scores[row["layer"]]
    page = render([report])
    heading, *rows = _cells(page, "cards tight")
    names = {finetuned_name(start): start for start in scores}
    verdicts = {}
    for row in rows[-3:]:
        cells = dict(zip(heading, row, strict=True))
        start = names[cells["on the same images"].partition(" (")[0]]
        train_score, cv_score = scores[start]
        assert cells["training"] == f"{train_score:.3f}"
        assert cells["validation"] == f"{cv_score:.3f}"
        assert cells["maps, GB"] == f"{_records(report)[start]['gigabytes']:.2g}"
        assert cells["to train"].endswith(" s")
        verdicts[start] = cells["verdict"]
    assert verdicts == {"fc6": "overfitting", "input": "neither", "scratch": "underfitting"}
    assert "Against overfitting" in page
    assert "Against underfitting" in page
    markdown = render_markdown(report)
    assert "fine-tuned from fc6: overfitting (training 1.000, validation 0.700)" in markdown


def test_a_command_is_marked_as_one_and_the_rest_is_escaped(report: dict[str, Any]) -> None:
    advice = report["advice"] | {"text": "Take <b>: `fit … --from a_b`. Or a_b."}
    html, markdown = (show(report | {"advice": advice}) for show in (
        lambda one: render([one]), render_markdown
    ))  # fmt: skip
    assert "Take &lt;b&gt;: <code>fit … --from a_b</code>. Or a_b." in html
    assert r"Take \<b\>: `fit … --from a_b`. Or a\_b." in markdown


def test_a_report_is_rendered_again_from_its_file(
    study: NetworkStudy,
    report: dict[str, Any],
    tmp_path: Path,
    run_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    out = tmp_path / "out"
    write_report(out, report, study)
    first = (out / "report.html").read_text()
    (out / "report.html").unlink()
    done = run_cli("report", out)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").read_text() == first
    for said in ("Do probabilities mean what they say?", "First-layer filters"):
        assert said in first
    for record in report["finetune"]:
        reliability = record["reliability"]
        assert (
            f"from {reliability['error_before']:.3f} to {reliability['error']:.3f} for "
            f"{record['start']}" in first
        )


def test_without_fine_tuning_the_page_has_the_linear_scores_only(study: NetworkStudy) -> None:
    report = make_report(replace(study, comparison=study.linear, finetuning=None))
    assert report["finetune"] == []
    page = render([report])
    for absent in ("Linear, or fine-tuned", "probabilities mean", "First-layer", "scratch:"):
        assert absent not in page
    _, small, large = _cells(page, "table2")
    assert all("svm on" in cell for cell in small[1:])
    assert not any(re.search(r"\d", cell) for cell in large)
    assert "Fine-tuned" not in render_markdown(report)


def test_networks_that_diverged_do_not_break_the_page(report: dict[str, Any]) -> None:
    report = copy.deepcopy(report)
    for record in report["finetune"]:
        record |= {"reliability": None, "filters": None, "memorized_loss": None}
        record["loss"] = [1.0, None]
        record["trials"][0]["loss"] = [None]
    report = json.loads(json.dumps(report))
    page = render([report])
    assert "probabilities mean" not in page
    assert page.count("are not learned by heart") == 3
    assert "Fine-tuned" in render_markdown(report)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 900, 390])
def test_a_browser_shows_all_of_it(report: dict[str, Any], tmp_path: Path, width: int) -> None:
    text = json.dumps(report).replace("fc7.relu", f"_features_{'stage.' * 9}relu")
    page = tmp_path / "report.html"
    page.write_text(render([json.loads(text)]))
    seen = _seen(page, tmp_path, width)
    assert seen["wide"] <= width
    assert (seen["broken"], seen["asked"], seen["unsigned"]) == (0, 0, 0)
    assert seen["hidden"] == []
    assert seen["type"] == ["13.3"]
