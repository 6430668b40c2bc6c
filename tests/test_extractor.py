"""Codes through the cut graph against forward hooks, brute force and themselves."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms

from codes import Backbone, CodeExtractor, ImageList, Preprocessing, load_backbone
from codes.data.loading import WorkerDiedError
from codes.data.sources import ArraySource, JoinedSource
from codes.decoding.decode import WHOLE, Decoding, Pixels
from codes.extractor import NonFiniteCodesError
from codes.graph.layers import find_layers
from codes.graph.pooling import pool_codes, pooled_width, resolve_pooling
from codes.graph.tracing import trace
from codes.inference.devices import find_device
from codes.inference.reading import BatchReader
from codes.resizing import as_pixels, resize, shorter_side
from tests.test_layers import _Twice

FAMILIES = {
    "alexnet": 96, "vgg11": 64, "googlenet": 64, "resnet18": 64, "squeezenet1_1": 64,
    "densenet121": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64,
    "convnext_tiny": 64,
}  # fmt: skip


def _images(n: int = 5, seed: int = 0) -> ImageList:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 70, 90, 3), dtype=np.uint8)
    return ImageList(
        name="noise",
        source=ArraySource(pixels, name="noise"),
        labels=np.array(["a"] * n),
        ignored={},
    )


def _pixels(backbone: Backbone, images: ImageList) -> Tensor:
    return torch.stack(
        [backbone.preprocessing.crop(images.source.open(i)) for i in range(len(images))]
    )


def _through_hooks(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Copy what each module answers at the moment it answers, named as torchvision names nodes."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            calls = sum(key == name or key.startswith(f"{name}_") for key in seen)
            seen[name if calls == 0 else f"{name}_{calls}"] = output.clone()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As each lane of the extractor: more would round otherwise.
    with torch.inference_mode():
        model(inputs)
    torch.set_num_threads(threads)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "mobilenet_v3_small"])
def test_codes_equal_forward_hooks(name: str) -> None:
    # In-place ReLUs, one module used twice, residual and dense connections, gates.
    backbone = load_backbone(name, weights="none", image_size=64)
    images = _images()
    extractor = CodeExtractor(backbone, "all", pool="flatten")
    [batch] = extractor.extract(images)
    inputs = backbone.preprocessing.normalize(_pixels(backbone, images))
    seen = _through_hooks(backbone.model, inputs.to(memory_format=torch.channels_last))
    compared = [layer for layer in batch.codes if layer in seen]
    assert len(compared) >= 5
    for layer in compared:
        expected = seen[layer].flatten(1).numpy()
        tolerance = 1e-5 * float(np.abs(expected).max())  # Tuned: but for rounding.
        np.testing.assert_allclose(
            batch.codes[layer], expected, rtol=0, atol=tolerance, err_msg=layer
        )
    if name == "squeezenet1_1":
        for layer in ("features.3.cat", "features.12.cat"):
            fire = layer.removesuffix(".cat")
            parts = [seen[f"{fire}.expand{k}_activation"] for k in ("1x1", "3x3")]
            expected = torch.cat(parts, 1).flatten(1).numpy()
            tolerance = 1e-5 * float(np.abs(expected).max())
            np.testing.assert_allclose(batch.codes[layer], expected, rtol=0, atol=tolerance)


def _own_backbone(model: nn.Module, size: int = 16) -> Backbone:
    graph = trace(model.eval())
    return Backbone(
        name="own",
        model=model,
        preprocessing=Preprocessing(resize_size=size, crop_size=size),
        weights="random",
        architecture={"name": "own"},
        graph=graph,
        layers=find_layers(graph, torch.zeros(1, 3, size, size)),
        weights_digest="0" * 64,
    )


def test_the_side_before_an_in_place_relu_is_not_rectified() -> None:
    torch.manual_seed(0)
    model = _Twice()
    backbone = _own_backbone(model)
    images = _images()
    [post] = CodeExtractor(backbone, "all", pool="flatten").extract(images)
    [pre] = CodeExtractor(backbone, "all", pool="flatten", activation="pre").extract(images)
    with torch.inference_mode():
        first = model.a(backbone.preprocessing.normalize(_pixels(backbone, images)))
    np.testing.assert_allclose(pre.codes["relu"], first.flatten(1).numpy(), atol=1e-6)
    for layer in ("relu", "relu_1"):
        assert (pre.codes[layer] < 0).any()
        np.testing.assert_array_equal(post.codes[layer], np.maximum(pre.codes[layer], 0))


def test_the_side_before_a_concatenation_is_that_of_its_parts() -> None:
    backbone = load_backbone("squeezenet1_1", weights="none", image_size=64)
    [post] = CodeExtractor(backbone, "features.3.cat", pool="flatten").extract(_images())
    [pre] = CodeExtractor(backbone, "features.3.cat", pool="flatten", activation="pre").extract(
        _images()
    )
    assert (pre.codes["features.3.cat"] < 0).any()
    np.testing.assert_array_equal(
        post.codes["features.3.cat"], np.maximum(pre.codes["features.3.cat"], 0)
    )


class _ShiftsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.PReLU()
        self.second, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x), self.second(x)
        first.sub_(3)  # What it answers is not used: it changes what the activation sees.
        both = torch.cat([self.act(first), self.relu(second)], 1)
        return both


def test_the_side_before_an_activation_is_what_the_activation_sees() -> None:
    torch.manual_seed(0)
    model = _ShiftsInPlace()
    seen: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    for name in ("act", "relu"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0].flatten(1).numpy().copy()})
        )
    backbone, images = _own_backbone(model), _images()
    extractor = CodeExtractor(backbone, "all", pool="flatten", activation="pre")
    [pre] = extractor.extract(images)
    seen.clear()
    with torch.inference_mode():
        model(backbone.preprocessing.normalize(_pixels(backbone, images)))
    both = np.concatenate([seen["act"], seen["relu"]], 1)
    np.testing.assert_allclose(pre.codes["cat"], both, atol=1e-5)


class _AddsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x += 100
        return self.fc(x.mean((2, 3)))


def test_later_changes_in_place_do_not_reach_the_codes() -> None:
    backbone = _own_backbone(_AddsInPlace())
    [batch] = CodeExtractor(backbone, "relu,fc", pool="flatten").extract(_images())
    assert batch.codes["relu"].max() < 100


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_lists_its_layers_and_extracts(name: str) -> None:
    backbone = load_backbone(name, weights="none", image_size=FAMILIES[name])
    extractor = CodeExtractor(backbone)
    [batch] = extractor.extract(_images(2))
    assert len(batch.codes) >= 5
    for tap in extractor.taps:
        codes = batch.codes[tap.name]
        assert codes.shape == (2, tap.n_features)
        assert np.isfinite(codes).all()
        assert tap.n_features <= 4096
        assert codes.std() > 0
        if tap.layer.kind == "relu":
            assert codes.min() >= 0


def test_codes_do_not_depend_on_batches_or_workers() -> None:
    backbone = load_backbone("bundled")
    images = _images(70)
    extractor = CodeExtractor(backbone, "all")
    ways = [{"batch_size": 70}, {"batch_size": 7}, {"batch_size": 70, "workers": 2}]
    results = []
    for way in ways:
        batches = list(extractor.extract(images, **way))
        assert [b.start for b in batches] == list(range(0, 70, way["batch_size"]))
        results.append({k: np.concatenate([b.codes[k] for b in batches]) for k in batches[0].codes})
    for layer, codes in results[0].items():
        scale = np.abs(codes).max()
        np.testing.assert_allclose(results[1][layer], codes, atol=1e-5 * scale, err_msg=layer)
        np.testing.assert_array_equal(results[2][layer], codes, err_msg=layer)


def test_bfloat16_is_near_float32() -> None:
    backbone = load_backbone("bundled")
    [exact] = CodeExtractor(backbone, "fc7.relu").extract(_images())
    [rough] = CodeExtractor(backbone, "fc7.relu", precision="bfloat16").extract(_images())
    difference = np.abs(exact.codes["fc7.relu"] - rough.codes["fc7.relu"]).max()
    assert 0 < difference < 0.1 * np.abs(exact.codes["fc7.relu"]).max()


def test_a_code_that_is_not_finite_names_layer_and_image() -> None:
    model = _Twice()
    with torch.no_grad():
        model.b.bias[0] = math.nan
    backbone = _own_backbone(model)
    with pytest.raises(NonFiniteCodesError, match=r"'relu_1' answered 'noise:0'"):
        list(CodeExtractor(backbone, "all").extract(_images()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "middle"}, "Allowed: post, pre"),
        ({"precision": "float8"}, "Allowed: float32"),
        ({"device": "cuda:99"}, "not available"),
        ({"device": "toaster"}, "unknown. Allowed here: .*cpu, auto"),
        ({"device": "meta"}, "not available.* Allowed here: .*cpu, auto"),
        ({"pool": "grid:0"}, "Allowed: grid, grid:K"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeExtractor(load_backbone("bundled"), **arguments)


@given(
    st.integers(1, 6), st.integers(1, 9), st.integers(1, 9),
    st.sampled_from(["grid", "grid:2", "grid:5", "avg", "max", "flatten"]),
    st.sampled_from(["nchw", "nhwc"]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_pooling_against_brute_force(c: int, h: int, w: int, pool: str, layout: str) -> None:
    maps = np.random.default_rng(c + 10 * h + 100 * w).normal(size=(2, c, h, w)).astype(np.float32)
    resolved = resolve_pooling(pool, (c, h, w))
    given_maps = maps if layout == "nchw" else maps.transpose(0, 2, 3, 1)
    rows = pool_codes(torch.tensor(given_maps), resolved, layout).numpy()
    if resolved == "flatten":
        expected = maps.reshape(2, -1)
    elif resolved in ("avg", "max"):
        flat = maps.reshape(2, c, -1)
        expected = flat.mean(2) if resolved == "avg" else flat.max(2)
    else:
        k = int(resolved.removeprefix("grid:"))
        assert k <= min(h, w)
        edges = [(i * h // k, -(-(i + 1) * h // k)) for i in range(k)]
        sides = [(j * w // k, -(-(j + 1) * w // k)) for j in range(k)]
        cells = [maps[:, :, a:b, x:y].mean((2, 3)) for a, b in edges for x, y in sides]
        expected = np.stack(cells, 2).reshape(2, -1)
    assert rows.shape[1] == pooled_width(resolved, (c, h, w))
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_the_default_grid_is_the_finest_that_fits(c: int, side: int) -> None:
    k = int(resolve_pooling("grid", (c, side, side)).removeprefix("grid:"))
    assert k == 1 or c * k * k <= 4096
    assert k == side or c * (k + 1) ** 2 > 4096


def test_the_backbone_keeps_its_norms() -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=64)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    CodeExtractor(backbone, "all")
    assert backbone.model.state_dict().keys() == before.keys()
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_batches_are_halved_where_memory_ends(
    error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, images = load_backbone("bundled"), _images(30)
    [whole] = CodeExtractor(backbone, "fc6.relu").extract(images)
    sizes: list[int] = []
    call = BatchReader.forward

    def small(self: BatchReader, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(pixels))
        if len(pixels) > 7:
            raise error("DefaultCPUAllocator: can't allocate memory")
        return call(self, pixels)

    monkeypatch.setattr(BatchReader, "forward", small)
    extractor = CodeExtractor(backbone, "fc6.relu")
    [halved] = extractor.extract(images)
    assert sizes == [30, 15, 7, 7, 7, 7, 2, 4], "the last: the first image in other company"
    assert extractor.most == 7
    np.testing.assert_allclose(halved.codes["fc6.relu"], whole.codes["fc6.relu"], atol=1e-5)
    monkeypatch.setattr(BatchReader, "forward", lambda *_: small(extractor._reader, torch.empty(8)))
    with pytest.raises(MemoryError, match="One image alone does not fit"):
        list(extractor.extract(images))


class _Deadly:
    """A source whose fifth image kills the process that decodes it."""

    def __init__(self, images: ImageList) -> None:
        self._source, self.names = images.source, images.source.names

    def digest(self, index: int, memory: object = None) -> bytes:
        return self._source.digest(index)

    def holds(self, index: int, digest: bytes) -> bool:
        return self._source.holds(index, digest)

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._source.open(index, decoding)


def test_a_process_that_dies_names_its_image() -> None:
    images = _images(12)
    deadly = dataclasses.replace(images, source=_Deadly(images))
    extractor = CodeExtractor(load_backbone("bundled"), "fc6.relu")
    with pytest.raises(WorkerDiedError, match=f"died, at {images.source.names[4]!r}: "):
        list(extractor.extract(deadly, workers=1, batch_size=4))


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset"), EOFError(), FileNotFoundError(2, "")]
)
def test_a_process_that_dies_as_its_batch_is_fetched(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Iterator[object]:  # What PyTorch raises just then.
        raise error
        yield

    monkeypatch.setattr("codes.data.loading.DataLoader", broken)
    extractor = CodeExtractor(load_backbone("bundled"), "fc6.relu")
    with pytest.raises(WorkerDiedError, match=r"died, at its first image: .*\. What was extracted"):
        list(extractor.extract(_images(), workers=1))


def test_each_process_of_a_machine_gets_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *_, **__: empty(0))
    for variable, rank, device in (
        ("LOCAL_RANK", "1", "cuda:1"), ("LOCAL_RANK", "2", "cuda:0"),
        ("SLURM_LOCALID", "1", "cuda:1"),
    ):  # fmt: skip
        monkeypatch.setenv(variable, rank)
        assert str(find_device("auto")) == str(find_device("cuda")) == device
        assert str(find_device("cuda:0")) == "cuda:0"
        monkeypatch.delenv(variable)
    assert str(find_device("auto")) == "cuda:0"


@pytest.mark.parametrize(
    ("name", "size", "precision", "expected"),
    [
        ("vgg16", 224, "float32", 1),  # 64 × 224 × 224 values: 12.25 MiB of float32.
        ("vgg16", 448, "float32", 1),
        ("squeezenet1_0", 224, "float32", 4),  # 96 × 109 × 109.
        ("squeezenet1_0", 224, "bfloat16", 9),
        ("resnet18", 224, "float32", 6),  # 64 × 112 × 112.
        ("resnet18", 64, "float32", 64),
    ],
)
def test_batches_keep_the_largest_map_within_a_threads_memory(
    name: str, size: int, precision: str, expected: int
) -> None:
    backbone = load_backbone(name, weights="none", image_size=size)
    extractor = CodeExtractor(backbone, precision=precision)
    assert extractor.default_batch_size == expected
    images = _images(expected + 1)
    if size < 224 and precision == "float32":
        starts = [batch.start for batch in extractor.extract(images)]
        assert starts == [0, expected]


def test_deterministic_algorithms_are_asked_for_and_given_back() -> None:
    backbone, images = load_backbone("bundled"), _images(4)
    extractor = CodeExtractor(backbone, "fc6.relu", deterministic=True)
    asked = []
    handle = extractor._reader._network.register_forward_hook(
        lambda *_: asked.append(torch.are_deterministic_algorithms_enabled())
    )
    [batch] = extractor.extract(images)
    handle.remove()
    assert asked == [True, True], "the batch, and its first image in other company"
    assert not torch.are_deterministic_algorithms_enabled()
    [plain] = CodeExtractor(backbone, "fc6.relu").extract(images)
    np.testing.assert_array_equal(batch.codes["fc6.relu"], plain.codes["fc6.relu"])


@pytest.mark.parametrize("views", ["hflip", "five-crop", "ten-crop"])
def test_codes_of_views_are_the_mean_of_their_codes(views: str) -> None:
    backbone = load_backbone("squeezenet1_1", weights="none", image_size=64)
    seen = dataclasses.replace(backbone.preprocessing, views=views)
    images = _images(7)
    batches = CodeExtractor(dataclasses.replace(backbone, preprocessing=seen)).extract(
        images, batch_size=13
    )

    def resized(pixels: Pixels) -> Tensor:  # As in `tests/test_jpegs.py`, against Pillow.
        size = shorter_side(seen.resize_size, *pixels.shape[:2])
        return resize(as_pixels(pixels), *size, "bilinear")

    cut = {
        "hflip": lambda image: [image, transforms.functional.hflip(image)],
        "five-crop": transforms.FiveCrop(64),
        "ten-crop": transforms.TenCrop(64),
    }[views]
    centre = transforms.CenterCrop(64)
    crops = [[centre(view) for view in cut(resized(images.source.open(i)))] for i in range(7)]
    pixels = torch.cat([crop for of in crops for crop in of])
    single = CodeExtractor(backbone)(pixels)
    found = [batch.codes for batch in batches]
    assert len(found) > 1
    for layer, rows in single.items():
        mean = rows.reshape(7, len(crops[0]), -1).mean(1).numpy()
        together = np.concatenate([codes[layer] for codes in found])
        np.testing.assert_allclose(together, mean, atol=1e-5 * np.abs(mean).max(), err_msg=layer)


def test_views_are_checked_and_known_apart() -> None:
    with pytest.raises(ValueError, match="center, hflip, five-crop, ten-crop"):
        Preprocessing(views="twelve-crop")
    with pytest.raises(ValueError, match="cuts corners of 64 pixels"):
        Preprocessing(resize_size=48, crop_size=64, views="five-crop")
    assert Preprocessing(views="hflip") != Preprocessing()


def test_several_poolings_share_one_pass() -> None:
    backbone, images = load_backbone("bundled"), _images(4)
    extractor = CodeExtractor(backbone, "conv2.relu,fc6.relu", pool="avg, grid:2,max,avg")
    passes = []
    handle = extractor._reader._network.conv1.conv.register_forward_hook(
        lambda _, maps, __: passes.append(len(maps[0]))
    )
    [batch] = extractor.extract(images)
    handle.remove()
    assert passes == [4, 4], "all four, and the first in other company"
    names = ["conv2.relu:avg", "conv2.relu:grid:2", "conv2.relu:max", "fc6.relu"]
    assert list(batch.codes) == [tap.name for tap in extractor.taps] == names
    for name in names[:3]:
        layer, _, pool = name.partition(":")
        [single] = CodeExtractor(backbone, layer, pool=pool).extract(images)
        np.testing.assert_array_equal(batch.codes[name], single.codes[layer])
    [some] = extractor.only(["conv2.relu:max"]).extract(images)
    assert list(some.codes) == ["conv2.relu:max"]
    np.testing.assert_array_equal(some.codes["conv2.relu:max"], batch.codes["conv2.relu:max"])
    with pytest.raises(ValueError, match="pool='sum' is not a pooling"):
        CodeExtractor(backbone, pool="avg,sum")


def test_lanes_keep_the_order_and_give_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, images = load_backbone("bundled"), _images(40)
    [whole] = CodeExtractor(backbone, "fc6.relu").extract(images, batch_size=40)
    call, running, most = BatchReader.forward, [], []

    def slow(self: BatchReader, pixels: Tensor) -> dict[str, Tensor]:
        running.append(1)
        most.append(len(running))
        time.sleep(0.02 * (int(pixels.sum()) % 3))  # The second of two may be done first.
        codes = call(self, pixels)
        running.pop()
        return codes

    monkeypatch.setattr(BatchReader, "forward", slow)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        batches = list(CodeExtractor(backbone, "fc6.relu").extract(images, batch_size=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert [batch.start for batch in batches] == list(range(0, 40, 3))
    rows = np.concatenate([batch.codes["fc6.relu"] for batch in batches])
    expected = whole.codes["fc6.relu"]
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())
    assert 1 < max(most) <= 3
    before = threading.enumerate()
    iterator = CodeExtractor(backbone, "fc6.relu").extract(images, batch_size=3)
    next(iterator)
    assert len(threading.enumerate()) > len(before)
    iterator.close()  # Left in the middle: no thread stays.
    assert set(threading.enumerate()) <= set(before)


def test_networks_are_traced_while_others_run() -> None:
    names = ["resnet18", "squeezenet1_0", "alexnet", "mobilenet_v2"]
    alone = {name: load_backbone(name, weights="none", image_size=64) for name in names}
    images = _images(60)
    running = CodeExtractor(alone["resnet18"], "layer1.0.relu_1").extract(images, batch_size=1)
    first = next(running)  # Its lanes run on.
    with ThreadPoolExecutor(4) as pool:
        load = partial(load_backbone, weights="none", image_size=64)
        together = dict(zip(names, pool.map(load, names), strict=True))
    for name in names:
        assert str(together[name].graph.graph) == str(alone[name].graph.graph)
        assert together[name].weights_digest == alone[name].weights_digest
        assert CodeExtractor(together[name], "all").taps
    rows = np.concatenate([first.codes["layer1.0.relu_1"]] + [
        batch.codes["layer1.0.relu_1"] for batch in running
    ])  # fmt: skip
    [whole] = CodeExtractor(alone["resnet18"], "layer1.0.relu_1").extract(images, batch_size=60)
    expected = whole.codes["layer1.0.relu_1"]
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())


def test_no_more_crops_pass_together_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone("bundled")
    views = dataclasses.replace(
        backbone, preprocessing=dataclasses.replace(backbone.preprocessing, views="ten-crop")
    )
    images, call, sizes = _images(3), BatchReader.forward, []
    [whole] = CodeExtractor(views, "fc6.relu").extract(images, batch_size=30)

    def noting(self: BatchReader, pixels: Tensor) -> dict[str, Tensor]:
        sizes.append(len(pixels))
        return call(self, pixels)

    monkeypatch.setattr(BatchReader, "forward", noting)
    batches = list(CodeExtractor(views, "fc6.relu").extract(images, batch_size=4))
    assert max(sizes) == 4
    rows = np.concatenate([batch.codes["fc6.relu"] for batch in batches])
    expected = whole.codes["fc6.relu"]
    np.testing.assert_allclose(rows, expected, atol=1e-5 * expected.max())


class _OneThread(ArraySource):
    """A source that no two threads may read, which its copies may."""

    def __init__(self, arrays: NDArray[np.uint8]) -> None:
        super().__init__(arrays, name="noise")
        self._reading = threading.Lock()
        self.meet = threading.Barrier(2, timeout=20)

    def __deepcopy__(self, memo: dict[int, object]) -> ArraySource:
        copied = _OneThread(self.arrays)
        copied.meet = self.meet
        return copied

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        if not self._reading.acquire(blocking=False):
            raise RuntimeError("read by two threads at once")
        try:
            if index < 2:
                self.meet.wait()  # Until another thread decodes as well.
            return super().open(index, decoding)
        finally:
            self._reading.release()


def test_threads_decode_beside_each_other_each_from_its_own_copy() -> None:
    images = _images(6)
    source = images.source
    assert isinstance(source, ArraySource)
    alone = dataclasses.replace(images, source=_OneThread(source.arrays))
    extractor = CodeExtractor(load_backbone("bundled"), "fc7.relu")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = [b.codes["fc7.relu"] for b in extractor.extract(alone, batch_size=1)]
        [expected] = extractor.extract(images, batch_size=6)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(np.concatenate(found), expected.codes["fc7.relu"], atol=1e-5)


def test_processes_end_well_beside_a_loader_of_ones_own() -> None:
    """A DataLoader of the main thread has every process watched that ends later, ours too."""
    images = _images(6)
    own = DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2, num_workers=1)
    assert len(list(own)) == 2
    extractor = CodeExtractor(load_backbone("bundled"), "fc7.relu")
    for _ in range(2):
        batches = list(extractor.extract(images, workers=2, batch_size=2))
        assert [len(batch.codes["fc7.relu"]) for batch in batches] == [2, 2, 2]


def test_copies_for_threads_share_what_they_only_read() -> None:
    """A list of a million names is not made again for each."""
    images = _images(6)
    part = images.take(np.array([4, 2]))
    joined = JoinedSource([images.source, _OneThread(images.source.arrays)])  # type: ignore[attr-defined]
    for source in (images.source, part.source, joined):
        copied = copy.deepcopy(source)
        assert copied.names is source.names
        np.testing.assert_array_equal(copied.open(1), source.open(1))
    assert copy.deepcopy(images.source) is images.source
    assert copied._sources[0] is images.source  # type: ignore[attr-defined]
    assert copied._sources[1] is not joined._sources[1]  # type: ignore[attr-defined]
