<<<<<<< ours
"""Networks as people write them: their codes are those of hooks, and they stay as they are."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
=======
"""Several networks side by side: which is better, by a paired test, and which is cheaper."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
>>>>>>> theirs
from typing import Any

import numpy as np
import pytest
<<<<<<< ours
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from codes import Backbone, CodeExtractor, ImageList, load_backbone
from codes.agreement import GraphDiffersError
from codes.copies import copy_network, move_network
from codes.evidence import EvidenceReader
from codes.graph import trace
from codes.images import ArraySource


class Plain(nn.Module):
    """Convolutions with batch normalisation, a reused weight nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 4)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def codes(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x))


class NoneByDefault(Plain):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:  # type: ignore[override]
        codes = self.codes(x)
        return self.head(F.normalize(codes) if labels is None else codes)


class FlagByDefault(Plain):
    def forward(self, x: Tensor, flag: bool = False, *, scale: float = 2.0) -> Tensor:  # type: ignore[override]
        codes = self.codes(x) * scale
        return self.head(codes if flag else codes.square())


class Collecting(Plain):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.head(self.codes(x) if args or kwargs else -self.codes(x))


class ReadsType(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = x.type(self.conv.weight.dtype).to(self.conv.weight.device)
        if self.conv.weight.dtype == torch.float64 or self.conv.weight.shape[0] != 8:
            x = x * 0
        return super().forward(x)


class ReadsParameters(Plain):
    def forward(self, x: Tensor) -> Tensor:
        first = next(self.parameters())
        return super().forward(x.to(device=first.device, dtype=first.dtype))


class ReadsWeight(Plain):
    """The weight of a convolution counts twice: a norm must not be folded into it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x) + self.conv.weight.mean((1, 2, 3)))


class Tied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 8, 5, 4)
        self.again.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x) + self.again(x).relu().mean((2, 3)))


class NoSelf(Plain):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class NoSelfWithin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = NoSelf()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


NETWORKS = (
    Plain, NoneByDefault, FlagByDefault, Collecting, ReadsType, ReadsParameters, ReadsWeight, Tied,
    NoSelf, NoSelfWithin,
)  # fmt: skip


def _made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
    return network


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], nn.Module]], Backbone]]:
    """Load a network as a function of a module of one's own."""
    module = types.ModuleType("own_networks")
    monkeypatch.setitem(sys.modules, "own_networks", module)

    def load(kind: Callable[[], nn.Module]) -> Backbone:
        setattr(module, "network", lambda: _made(kind))  # noqa: B010
        return load_backbone("own_networks:network", image_size=32)

    return load


@pytest.fixture
def images() -> ImageList:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 36, 3), dtype=np.uint8)
    source = ArraySource(pixels, name="noise")
    return ImageList(name="noise", source=source, labels=np.array(["a"] * 6), ignored={})


def _ours(backbone: Backbone, images: ImageList, layer: str, **options: Any) -> NDArray[Any]:
    return np.concatenate(
        [b.codes[layer] for b in CodeExtractor(backbone, layer, **options).extract(images)]
    )


def _own(kind: Callable[[], nn.Module], backbone: Backbone, images: ImageList) -> NDArray[Any]:
    network = _made(kind)
    network.eval()
    kept: list[Tensor] = []
    network.get_submodule("head").register_forward_hook(lambda *given: kept.append(given[2]))
    preprocessing = backbone.preprocessing
    pixels = torch.stack([preprocessing.crop(images.source.open(i)) for i in range(len(images))])
    with torch.inference_mode():
        network(preprocessing.normalize(pixels))
    return kept[0].numpy()


@pytest.mark.parametrize("kind", NETWORKS)
def test_codes_are_those_of_the_network_called_with_images_alone(
    kind: Callable[[], nn.Module],
    own: Callable[[Callable[[], nn.Module]], Backbone],
    images: ImageList,
) -> None:
    backbone = own(kind)
    expected = _own(kind, backbone, images)
    largest = np.abs(expected).max()
    assert np.abs(_ours(backbone, images, "head") - expected).max() < 1e-5 * largest
    rough = _ours(backbone, images, "head", precision="bfloat16")
    assert 0 < np.abs(rough - expected).max() < 0.05 * largest


def test_a_required_argument_is_named(own: Callable[..., Backbone]) -> None:
    class Needs(Plain):
        def forward(self, x: Tensor, prompt: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + prompt)

    with pytest.raises(ValueError, match="'prompt'"):
        own(Needs)


def test_a_network_that_goes_on_training_is_named(own: Callable[..., Backbone]) -> None:
    class Stubborn(Plain):
        def train(self, mode: bool = True) -> Stubborn:
            super().train(mode)
            self.norm.train()
            return self

    with pytest.raises(ValueError, match="'norm' \\(BatchNorm2d\\)"):
        own(Stubborn)


def test_a_graph_that_answers_otherwise_is_refused_with_both_numbers(
    own: Callable[..., Backbone], images: ImageList
) -> None:
    class Hooked(Plain):  # What is done to the answer of the whole network is not traced.
        def __init__(self) -> None:
            super().__init__()
            self.register_forward_hook(lambda module, given, answer: answer + 1)

    extractor = CodeExtractor(own(Hooked), "head")
    with pytest.raises(GraphDiffersError) as refused:
        next(iter(extractor.extract(images)))
    one, other = map(float, re.findall(r"with (-?\d+\.\d+)", str(refused.value)))
    assert one - other == pytest.approx(1, abs=1e-4)


def test_the_graph_is_compared_once(own: Callable[..., Backbone], images: ImageList) -> None:
    backbone = own(Plain)
    calls: list[int] = []
    backbone.model.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    extractor = CodeExtractor(backbone)
    for _ in range(2):
        list(extractor.only([extractor.taps[0].name]).extract(images, batch_size=2))
    assert calls == [2]


def test_nothing_that_reads_a_network_changes_it(
    images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=32)
    modules = {id(module) for module in backbone.model.modules()}
    tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
    before = [(value.data_ptr(), value.stride(), value.clone()) for value in tensors]
    settings = [dict(vars(module)) for module in backbone.model.modules()]
    moved: set[int] = set()
    apply = nn.Module._apply

    def spy(module: nn.Module, *given: Any, **options: Any) -> nn.Module:
        moved.add(id(module))
        return apply(module, *given, **options)

    monkeypatch.setattr(nn.Module, "_apply", spy)
    digests = np.zeros((len(images), 32), np.uint8)
    for _ in range(2):
        for precision in ("float32", "bfloat16"):
            _ours(backbone, images, "layer1.0.relu", precision=precision)
            _ours(backbone, images, "layer1.0.relu", precision=precision, activation="pre")
        list(EvidenceReader(backbone).read(images, digests))
    assert moved
    assert not moved & modules
    after = [(value.data_ptr(), value.stride()) for value in tensors]
    assert after == [kept[:2] for kept in before]
    assert all(torch.equal(value, kept[2]) for value, kept in zip(tensors, before, strict=True))
    assert [dict(vars(module)) for module in backbone.model.modules()] == settings


def test_a_copy_is_moved_alone_and_what_is_tied_stays_tied() -> None:
    network = _made(Tied).eval()
    traced = trace(network)
    copied = copy_network(network, traced.graph)
    assert copied.get_parameter("conv.weight") is copied.get_parameter("again.weight")
    assert copied.get_parameter("conv.weight") is not network.get_parameter("conv.weight")
    twice = copy_network(network, traced.graph)
    move_network(twice, torch.device("meta"))
    assert twice.get_parameter("conv.weight").is_meta
    others = [network, copied]
    assert not any(value.is_meta for module in others for value in module.parameters())
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(copied(x), deepcopy(network)(x))


def test_devices_that_a_forward_pass_names_go_along() -> None:
    network = _made(ReadsType).eval()
    copied = move_network(copy_network(network, trace(network).graph), torch.device("meta"))
    assert copied(torch.rand(2, 3, 32, 32, device="meta")).is_meta
=======
from scipy import stats
from sklearn.metrics import average_precision_score

from codes import load_backbone
from pipelines.arguments import each_backbone
from pipelines.cli import main
from pipelines.networks import label, side_by_side
from pipelines.report import compare_again, read_report, render_again
from pipelines.tested import ANSWERS, Answers, read_answers, write_answers
from pipelines.uncertainty import HeldOut
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


def _answers(hits: np.ndarray, draws: str = "same") -> Answers:
    """Answers of one draw to images of one class, right or wrong."""
    truth = np.zeros(len(hits), np.intp)
    return Answers(
        held_out=HeldOut(scoring="accuracy", truth=truth, n_classes=2),
        answers=np.where(hits, 0.0, 1.0)[None],
        scores=np.array([hits.mean()]),
        draws=draws,
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
    standing = compare_again(folders)
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
    assert again.draws == first.draws
    np.testing.assert_array_equal(again.answers, first.answers)
    assert "paired differences" in compare_again([folders[1], renamed]).sentences[0]

    # Other folds, a changed label, or no answers: not compared, and why is said.
    other = tmp_path / "other"
    assert _run("compare", image_folder, *one, "--random-state", "7", "--out", other) == 0
    assert "different images or folds" in compare_again([folders[1], other]).sentences[0]
    (image_folder / "red" / "x00.png").rename(image_folder / "blue" / "y.png")
    assert _run("compare", image_folder, *one, "--out", other) == 0
    assert "different images or folds" in compare_again([folders[1], other]).sentences[0]
    shutil.copy(other / ANSWERS, folders[0] / ANSWERS)
    assert "not those of its report.json" in compare_again(folders).sentences[0]
    (folders[0] / ANSWERS).unlink()
    page = render_again(folders, tmp_path / "page.html").read_text()
    assert "are not beside its report.json" in page
    assert compare_again(folders).behind == [None, None]


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
            held_out=held_out, answers=decisions, scores=np.array(scores), draws="same"
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


def test_default_stands_for_the_weights_of_a_backbone() -> None:
    assert load_backbone("bundled", weights="default").weights == "bundled"
    words = ["--backbone", "bundled", "--backbone", "alexnet", "--weights", "none"]
    with pytest.raises(ValueError, match=r"2 backbones and 1 --weights .* default "):
        list(each_backbone(words))
>>>>>>> theirs
