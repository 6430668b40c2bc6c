"""Whether a traced graph answers as its network does: what is compared, and what is refused."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codes import CodeExtractor, ImageList, Preprocessing, load_backbone
from codes.data.sources import ArraySource
from codes.graph.tracing import trace
from codes.inference.equivalence import Agreement, GraphDiffersError


@dataclass
class Scores:
    scores: Tensor
    codes: Tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def codes(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.codes(x))


class DropsOut(Net):
    """It draws random numbers, after the layers that are read."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.codes(x), 0.5))


class PartlyNaN(Net):
    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return torch.cat([scores, torch.full_like(scores, torch.nan)], 1)


class ManyAnswers(Net):
    def forward(self, x: Tensor) -> dict[str, Any]:
        codes = self.codes(x)
        return {"a": (self.head(codes), [codes]), "n": 3}


class Named(Net):
    def forward(self, x: Tensor) -> Scores:
        codes = self.codes(x)
        return Scores(self.head(codes), codes)


class Flat(nn.Sequential):
    """A network that can be run densely."""

    def __init__(self) -> None:
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)
        super().__init__(*layers)


def _off_by_one(network: nn.Module) -> None:
    """Let a network answer otherwise than its graph: in its last tensor, by one."""

    def add(module: nn.Module, given: Any, answer: Any) -> Any:
        if isinstance(answer, Scores):
            return Scores(answer.scores, answer.codes + 1)
        if isinstance(answer, dict):
            return {**answer, "a": (answer["a"][0], [answer["a"][1][0] + 1])}
        return answer + 1

    network.register_forward_hook(add)


@pytest.mark.parametrize("kind", [Net, DropsOut, PartlyNaN, ManyAnswers, Named])
def test_every_tensor_of_an_answer_is_compared(kind: type[nn.Module]) -> None:
    network = kind().eval()
    graph, images = trace(network).graph, torch.rand(2, 3, 16, 16)
    Agreement(network, graph).require(images)
    _off_by_one(network)
    with pytest.raises(GraphDiffersError, match=r"\d.*\d"):
        Agreement(network, graph).require(images)


def test_what_is_not_a_number_in_the_graph_alone_is_refused() -> None:
    network = Net().eval()
    graph, images = trace(network).graph, torch.rand(2, 3, 16, 16)
    network.register_forward_hook(lambda module, given, answer: answer * torch.nan)
    with pytest.raises(GraphDiffersError, match="nan"):
        Agreement(network, graph).require(images)


def test_layers_before_random_numbers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_agreement")
    monkeypatch.setitem(sys.modules, "own_agreement", module)
    module.net = DropsOut  # type: ignore[attr-defined]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    images = ImageList(
        name="noise",
        source=ArraySource(pixels, name="noise"),
        labels=np.array(["a"] * 4),
        ignored={},
    )
    extractor = CodeExtractor(load_backbone("own_agreement:net", image_size=16), "relu")
    state = torch.get_rng_state()
    [batch] = extractor.extract(images)
    assert batch.codes["relu"].shape[0] == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_is_compared_before_it_is_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_agreement")
    monkeypatch.setitem(sys.modules, "own_agreement", module)

    def made() -> tuple[nn.Module, Preprocessing]:
        network = Flat()
        _off_by_one(network)
        return network, Preprocessing(resize_size=16, crop_size=16)

    module.net = made  # type: ignore[attr-defined]
    with pytest.raises(GraphDiffersError):
        load_backbone("own_agreement:net", dense=True)
