"""The drawn images, the training run on them, and the weights that came out."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from codes.backbones.bundled import BundledNet, bundled, fold_norm
from codes.backbones.drawn_images import Drawings
from codes.backbones.pretrain import (
    Pretraining,
    PretrainOptions,
    export,
    learning_rate_at,
    new_draw_accuracy,
    normalise,
)

TINY = PretrainOptions(steps=4, batch_size=8, n_classes=5)
WEIGHTS = Path(
    str(importlib.resources.files("codes.backbones").joinpath("weights", "bundled.safetensors"))
)


def _metadata() -> dict[str, str]:
    with safe_open(WEIGHTS, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def test_a_drawing_depends_on_its_index_only() -> None:
    forwards, _ = Drawings(n_classes=7).batch(range(30))
    backwards, _ = Drawings(n_classes=7).batch(range(29, -1, -1))
    np.testing.assert_array_equal(forwards, backwards[::-1])
    alone, label = Drawings(n_classes=7)[17]
    np.testing.assert_array_equal(forwards[17], alone)
    assert alone.shape == (64, 64, 3)
    assert alone.dtype == np.uint8
    assert label == 3


def test_another_random_state_draws_something_else() -> None:
    assert (Drawings(n_classes=3)[0][0] != Drawings(n_classes=3, random_state=1)[0][0]).any()


def test_classes_differ_more_than_drawings_of_one_class() -> None:
    n_classes, n_draws = 20, 40
    images, labels = Drawings(n_classes=n_classes).batch(range(n_classes * n_draws))
    # Ink is what differs from the median grey, whichever is the darker.
    grey = images.astype(float).mean(3)
    ink = np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True)).reshape(len(grey), -1)
    ink /= np.linalg.norm(ink, axis=1, keepdims=True) + 1e-9
    distances = 1 - ink @ ink.T
    same = labels[:, None] == labels
    own = distances[same & ~np.eye(len(ink), dtype=bool)].mean()
    assert own < 0.9 * distances[~same].mean()


def test_drawings_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match=r"n_classes.* 0"):
        Drawings(n_classes=0)
    with pytest.raises(IndexError, match="index is -1"):
        Drawings(n_classes=2)[-1]


def test_folding_the_norm_leaves_the_outputs() -> None:
    torch.manual_seed(0)
    net = BundledNet(num_classes=9, norm=True)
    images = torch.randn(16, 3, 64, 64)
    for _ in range(3):
        net(images)  # moves the running statistics away from 0 and 1
    folded = fold_norm(net)
    assert net.training
    net.eval()
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-4)
    assert not any("norm" in name for name, _ in folded.named_modules())


def test_folding_needs_a_norm() -> None:
    with pytest.raises(ValueError, match="norm=True"):
        fold_norm(BundledNet(num_classes=2))


def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    straight = Pretraining(options=TINY, workers=0)
    losses = [loss for loss, _ in straight.run()]

    first = Pretraining(options=TINY, workers=0)
    assert [loss for loss, _ in first.run(until=2)] == losses[:2]
    first.save(tmp_path / "run.checkpoint")
    del first
    second = Pretraining(options=TINY, workers=1)
    second.resume(tmp_path / "run.checkpoint")
    assert [loss for loss, _ in second.run()] == losses[2:]

    for name, tensor in straight.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Pretraining(options=TINY, workers=0).save(tmp_path / "run.checkpoint")
    other = Pretraining(options=PretrainOptions(steps=5, batch_size=8, n_classes=5), workers=0)
    with pytest.raises(ValueError, match="delete the checkpoint"):
        other.resume(tmp_path / "run.checkpoint")


def test_an_exported_network_is_described(tmp_path: Path) -> None:
    training = Pretraining(options=TINY, workers=0)
    list(training.run())
    accuracy = export(training, tmp_path / "weights.safetensors", n_samples=20)
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["accuracy"] == f"{accuracy:.4f}"
        assert file.metadata()["images"] == "32"
        assert set(file.keys()) == set(BundledNet(num_classes=5).state_dict())


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    options = PretrainOptions(steps=1000, warm_up=100, learning_rate=1.0)
    rates = [learning_rate_at(step, options=options) for step in range(1000)]
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (99, 100)
    assert 0 < rates[-1] < 1e-3


def test_random_weights_are_seeded_and_leave_the_global_state() -> None:
    before = torch.random.get_rng_state()
    nets = [bundled(weights=False, random_state=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    kernels = [net.conv1.get_submodule("conv").state_dict()["weight"] for net in nets]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])
    assert not nets[0].training


def test_the_shipped_weights_are_small_and_described() -> None:
    assert WEIGHTS.stat().st_size <= 5_000_000
    assert {"options", "step", "accuracy", "licence"} <= _metadata().keys()
    card = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{100 * float(_metadata()['accuracy']):.1f} %" in card


def test_the_shipped_weights_recognise_new_drawings() -> None:
    drawings = Drawings(n_classes=1000)
    accuracy = new_draw_accuracy(bundled(), drawings, n_samples=600)
    # Four standard errors of 600 drawings are 8 points.
    assert accuracy == pytest.approx(float(_metadata()["accuracy"]), abs=0.08)
    assert accuracy > 0.4


def test_normalise_centres_grey() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 64, 64, 3)
    values = normalise(images)
    assert values.shape == (2, 3, 64, 64)
    assert values[:, 0, 0, 0].tolist() == [-2.0, 2.0]
