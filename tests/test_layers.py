"""Which layers are found, what they are called, and which are chosen."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from cache import CodesKey
from codes import CodeExtractor, load_backbone, load_images
from codes.graph.default_layers import fill_gaps
from codes.graph.layers import find_layers, select_layers
from codes.graph.taps import choose_taps
from codes.graph.tracing import trace
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions


def _layers(model: nn.Module, size: int = 64):
    traced = trace(model.eval())
    return traced, find_layers(traced, torch.zeros(1, 3, size, size))


def _why(name: str, size: int = 224) -> dict[str, str]:
    """Return why each of the default layers of a torchvision network is taken."""
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    traced = trace(model.eval())
    layers = find_layers(traced, torch.zeros(1, 3, size, size, device="meta"))
    return {layer.name: layer.why for layer in layers if layer.why}


def _but_between(name: str) -> list[str]:
    return [layer for layer, why in _why(name).items() if why != "between"]


def test_alexnet_stages_then_fc6_and_fc7() -> None:
    assert _but_between("alexnet") == [
        "features.1", "features.4", "features.11", "classifier.2", "classifier.5",
    ]  # fmt: skip


def test_resnet50_takes_block_outputs_not_the_branch_that_still_has_the_resolution() -> None:
    # layer2.0.relu is at layer1's resolution, inside the first block of layer2.
    assert _but_between("resnet50") == [
        "relu", "layer1.2.relu_2", "layer2.3.relu_2", "layer3.5.relu_2", "layer4.2.relu_2",
        "avgpool",
    ]  # fmt: skip


def test_squeezenet_takes_the_concatenations_and_fire9_before_the_class_scores() -> None:
    assert _but_between("squeezenet1_0") == [
        "features.1", "features.5.cat", "features.10.cat", "features.12.cat", "classifier.2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet152", "densenet121", "efficientnet_b0", "mobilenet_v3_small", "vgg16",
     "convnext_tiny", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet"],
)  # fmt: skip
def test_no_more_than_a_dozen_leave_no_gap(name: str) -> None:
    kwargs = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **kwargs)
    traced = trace(model.eval())
    layers = find_layers(traced, torch.zeros(1, 3, 224, 224, device="meta"))
    depths = [layer.depth for layer in layers if layer.default]
    assert max(b - a for a, b in pairwise(depths)) <= 0.15 + 1e-4
    assert len(choose_taps(traced, layers)) <= 12
    # Where something passes everything, it is an end of a block.
    if name.startswith("resnet"):
        between = [layer.name for layer in layers if layer.why == "between"]
        last = "relu_1" if name == "resnet18" else "relu_2"
        assert between
        assert all(layer.endswith(last) for layer in between)


@given(
    st.lists(st.integers(0, 100), min_size=2, max_size=5, unique=True),
    st.lists(st.integers(0, 100), max_size=9, unique=True),
    st.integers(0, 4),
)
@settings(deadline=None, max_examples=150)
def test_gaps_are_filled_as_well_as_trying_everything_would(
    taken: list[int], offered: list[int], room: int
) -> None:
    taken, offered = sorted(taken), sorted(set(offered) - set(taken))
    chosen = fill_gaps([d / 100 for d in taken], [d / 100 for d in offered], room)
    found = [round(100 * d) for d in chosen]
    assert len(found) <= room
    assert set(found) <= set(offered)
    both = sorted([*taken, *found])
    assert not found or min(b - a for a, b in pairwise(both) if {a, b} & set(found)) >= 5

    def widest(more: tuple[int, ...]) -> int:
        return max(b - a for a, b in pairwise(sorted([*taken, *more])))

    apart = [
        more
        for n in range(room + 1)
        for more in combinations(offered, n)
        if all(abs(a - b) >= 5 for a in more for b in (*taken, *more) if a != b)
    ]
    # A step more than is needed may be left where those offered are few.
    assert widest(tuple(found)) <= max(15, min(map(widest, apart))) + 5


def test_convnext_is_channels_last_and_ends_with_what_its_classifier_reads() -> None:
    _, layers = _layers(models.convnext_tiny(weights=None), 64)
    assert {layer.layout for layer in layers if layer.kind == "gelu"} == {"nhwc"}
    assert layers[0].shape == (384, 16, 16)
    assert (layers[-1].kind, layers[-1].shape[0], layers[-1].default) == ("penultimate", 768, True)


def test_gates_are_no_layers() -> None:
    model = models.mobilenet_v3_small(weights=None)
    names = {layer.name for layer in _layers(model)[1]}
    squeezes = {
        f"{name}.activation"
        for name, module in model.named_modules()
        if type(module).__name__ == "SqueezeExcitation"
    }
    assert squeezes
    assert not names & squeezes


def test_depth_rises_from_input_to_output() -> None:
    for name in ("densenet121", "googlenet"):
        kwargs = {"init_weights": False} if name == "googlenet" else {}
        _, layers = _layers(models.get_model(name, weights=None, **kwargs))
        chosen = [layer.depth for layer in layers if layer.default]
        assert chosen == sorted(chosen)
        assert 0 < chosen[0] < 0.2 < 0.9 < chosen[-1] <= 1


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.b(self.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))


def test_one_relu_called_twice_is_two_layers() -> None:
    _, layers = _layers(_Twice(), 8)
    assert [(layer.name, layer.shape[0]) for layer in layers] == [
        ("relu", 4), ("relu_1", 5), ("mean", 5),
    ]  # fmt: skip


def test_selection_by_name_expression_and_any_node() -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    chosen = select_layers(traced, layers, "maxpool,layer[12].*relu_1,relu")
    assert [layer.name for layer in chosen] == [
        "relu", "maxpool", "layer1.0.relu_1", "layer1.1.relu_1", "layer2.0.relu_1",
        "layer2.1.relu_1",
    ]  # fmt: skip
    assert chosen[1].kind == "node"
    assert select_layers(traced, layers, "all") == layers


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("layer4.1.relu1", "Nearest: layer4.1.relu_1"),
        ("layer4", "has 4 layers in it. Name layer4.1.relu_1, its last one, or 'layer4"),
        ("(", "not a valid regular expression"),
    ],
)
def test_unknown_layers_are_named_with_the_nearest(wanted: str, message: str) -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    with pytest.raises(ValueError, match="(?s).*" + message.replace(".", r"\.")):
        select_layers(traced, layers, wanted)


def test_a_list_may_begin_with_the_default_layers() -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    chosen = select_layers(traced, layers, "default,layer2.0.relu")
    own = [layer for layer in layers if layer.default or layer.name == "layer2.0.relu"]
    assert chosen == own
    assert select_layers(traced, layers, "all") == layers


def test_all_layers_of_a_module_are_what_its_message_names() -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    with pytest.raises(ValueError, match="not one layer") as raised:
        select_layers(traced, layers, "layer4")
    [every] = re.findall("'([^']+)', all", str(raised.value))
    chosen = [layer.name for layer in select_layers(traced, layers, every)]
    assert chosen == [layer.name for layer in layers if layer.name.startswith("layer4.")]


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_says_so() -> None:
    with pytest.raises(ValueError, match=r"torch\.where"):
        trace(_Branching())


class _Pooling(nn.Module):
    """A map of ReLU that is pooled in some way before its head."""

    def __init__(self, pool: Callable[[Tensor], Tensor], n: int = 5) -> None:
        super().__init__()
        self.conv, self.fc, self.relu = nn.Conv2d(3, 5, 3), nn.Linear(n, 2), nn.ReLU()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.conv(x))))


_POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "dropped out": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()),
    "AvgPool2d": nn.Sequential(nn.AvgPool2d(6), nn.Flatten()),
    "function": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "as large as the map": lambda x: F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1),
    "mean": lambda x: x.mean((2, 3)),
    "torch.mean": lambda x: torch.mean(x, dim=[-1, -2], keepdim=True).flatten(1),
    "one after the other": lambda x: x.mean(3).mean(2),
    "flattened": lambda x: x.flatten(2).mean(-1),
}


@pytest.mark.parametrize("name", [*_POOLINGS, "max", "power"])
def test_pooled_features_are_a_layer_whatever_pools(name: str) -> None:
    pools: dict[str, Callable[[Tensor], Tensor]] = _POOLINGS | {
        "max": nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        "power": lambda x: F.avg_pool2d(x.pow(3), 6).pow(1 / 3).flatten(1),
    }
    model = _Pooling(pools[name]).eval()
    traced, layers = _layers(model, 8)
    assert [layer.kind for layer in layers] == ["relu", "penultimate"]
    pooled = layers[1]
    assert (pooled.shape[0], pooled.why) == (5, "pooled")
    is_average = name in _POOLINGS
    assert pooled.average_of == ("relu" if is_average else "")
    own = [] if is_average else ["relu:avg"]
    assert [tap.name for tap in choose_taps(traced, layers)] == ["relu", *own, pooled.name]
    # Pooled to one value a channel, it is the same codes; what is asked for by name is read.
    names = [tap.name for tap in choose_taps(traced, layers, pool="avg")]
    assert names == (["relu"] if is_average else ["relu", pooled.name])
    both = f"relu,{pooled.name}"
    assert [tap.name for tap in choose_taps(traced, layers, both, "avg")] == both.split(",")
    # What the source classifier reads, by a hook.
    read: list[Tensor] = []
    model.fc.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    x = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        model(x)
        [found] = [n for n in traced.graph.nodes if traced.names.get(n) == pooled.name]
        ours = _run_to(traced.root, traced.graph, found, x)
    torch.testing.assert_close(ours.flatten(1), read[0])


def _run_to(root: nn.Module, graph: torch.fx.Graph, node: torch.fx.Node, x: Tensor) -> Tensor:
    values: list[Tensor] = []

    class Until(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n is node:
                values.append(result)
            return result

    Until(torch.fx.GraphModule(root, graph)).run(x)
    return values[0]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_network_without_its_head_ends_with_what_it_pools(name: str) -> None:
    model = models.get_model(name, weights=None)
    whole = {layer.name: layer.why for layer in _layers(model)[1]}
    model.fc = nn.Identity()
    cut = {layer.name: layer.why for layer in _layers(model)[1]}
    assert cut.keys() == whole.keys()
    assert list(cut.items())[-2:] == list(whole.items())[-2:]
    assert cut["avgpool"] == "pooled"


def test_a_flattened_map_is_not_pooled() -> None:
    _, layers = _layers(_Pooling(nn.Flatten(), 5 * 36), 8)
    assert [layer.name for layer in layers] == ["relu"]
    smaller = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    assert [layer.name for layer in _layers(_Pooling(smaller, 45), 8)[1]] == ["relu"]


def test_stages_of_a_small_image_that_are_1x1_are_no_head() -> None:
    for name in ("squeezenet1_1", "mobilenet_v2", "resnet50"):
        _, layers = _layers(models.get_model(name, weights=None), 32)
        assert "pooled" not in [layer.kind for layer in layers]


def test_mobilenet_v3_pools_before_two_layers() -> None:
    kinds = {layer.name: layer.kind for layer in _layers(models.mobilenet_v3_small())[1]}
    assert kinds["avgpool"] == "pooled"
    assert kinds["classifier.1"] == "hardswish"


def test_the_last_map_is_averaged_as_well_and_what_is_asked_for_is_not_added_to() -> None:
    backbone = load_backbone("squeezenet1_1", weights="none", image_size=64)
    images = load_images("sklearn:digits").take(np.arange(3))
    extractor = CodeExtractor(backbone)
    assert len(extractor.taps) == len({tap.name for tap in extractor.taps}) == 11
    [codes] = [batch.codes for batch in extractor.extract(images)]
    [asked] = CodeExtractor(backbone, "features.12.cat", pool="flatten").extract(images)
    maps = asked.codes["features.12.cat"].reshape(3, 512, -1)
    np.testing.assert_allclose(codes["features.12.cat:avg"], maps.mean(2), rtol=1e-5)
    for layers, pool in (("default", "avg"), ("default", "grid:2"), ("features.12.cat", "grid")):
        names = [tap.name for tap in CodeExtractor(backbone, layers, pool=pool).taps]
        assert "features.12.cat" in names
        assert "features.12.cat:avg" not in names
    # ResNet-50 averages its last map itself, and its grid has one place.
    wide = load_backbone("resnet50", weights="none", image_size=64)
    assert CodeExtractor(wide).taps[-1].name == "layer4.2.relu_2"
    narrow = load_backbone("resnet18", weights="none", image_size=64)
    assert [tap.name for tap in CodeExtractor(narrow).taps][-2:] == ["layer4.1.relu_1", "avgpool"]


def test_before_the_activation_the_pooled_features_average_what_it_takes() -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=64)
    images = load_images("sklearn:digits").take(np.arange(3))
    [pre] = CodeExtractor(backbone, activation="pre").extract(images)
    added: list[np.ndarray] = []
    own = backbone.model.layer4[1].relu
    hook = own.register_forward_pre_hook(lambda _, args: added.append(args[0].clone().numpy()))
    crops = [backbone.preprocessing.crop(images.source.open(i)) for i in range(3)]
    normalized = backbone.preprocessing.normalize(torch.stack(crops))
    with torch.inference_mode():
        backbone.model(normalized)
    hook.remove()
    # Called twice in a block: the last is its end.
    np.testing.assert_allclose(pre.codes["avgpool"], added[-1].mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (pre.codes["avgpool"] < 0).any()


def test_a_name_with_its_pooling_is_what_the_default_calls_it() -> None:
    backbone = load_backbone("bundled")
    images = load_images("sklearn:digits").take(np.arange(3))
    [usual] = CodeExtractor(backbone).extract(images)
    asked = CodeExtractor(backbone, "conv5.relu:avg,fc7.relu,conv[12].relu:grid:2,conv1.relu")
    assert [(tap.name, tap.pool) for tap in asked.taps] == [
        ("conv1.relu", "grid:9"), ("conv1.relu:grid:2", "grid:2"),
        ("conv2.relu:grid:2", "grid:2"), ("conv5.relu:avg", "avg"), ("fc7.relu", "flatten"),
    ]  # fmt: skip
    [codes] = [batch.codes for batch in asked.extract(images)]
    for name in ("conv5.relu:avg", "fc7.relu", "conv1.relu"):
        np.testing.assert_allclose(codes[name], usual.codes[name], rtol=1e-5, atol=1e-6)


def test_the_average_of_the_last_map_is_narrowed_to_itself() -> None:
    images = load_images("sklearn:digits").take(np.arange(5))
    options = ExtractionOptions(backbone="bundled", dtype="float32")
    done = extract(images, options)
    one = extract(images, done.options_of("conv5.relu:avg"))
    assert (one.n_extracted, len(one.taps)) == (0, 1)
    np.testing.assert_array_equal(one.codes("conv5.relu"), done.codes("conv5.relu:avg"))
    assert done.codes("conv5.relu:avg").shape == (5, 128)
    # Codes on the grid are those that were stored under this key before.
    assert done.arrays["conv5.relu"] == CodesKey(
        layer="conv5.relu", activation="post", pool="grid:5", dtype="float32"
    )
