"""Fine-tuning, against plain PyTorch loops over the whole network, and against scikit-learn."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, MultiStepLR

from codes import load_backbone, load_images
from codes.augmentation import AugmentedPreprocessing, parse_augmentations
from codes.graph.starts import choose_starts
from codes.graph.suffix import Suffix
from pipelines import ExtractionOptions, LogisticCV, Protocol, compare, extract
from pipelines.comparison.evaluate import Fit, evaluate_layer
from pipelines.comparison.samples import Samples
from pipelines.extraction.extract import Extraction
from pipelines.finetuning.calibration import calibrate
from pipelines.finetuning.classifier import FineTuned
from pipelines.finetuning.heads import fit_heads, start_head
from pipelines.finetuning.prepare import last_codes, prepare
from pipelines.finetuning.search import Score, draw_settings, search
from pipelines.progress import Advance, Silent
from pipelines.report.report import make_report, write_report
from pipelines.training.fresh import FreshMaps
from pipelines.training.kept import KeptTrials, Outcome
from pipelines.training.maps import StoredMaps, store_maps
from pipelines.training.optimizers import limit_norms, make_optimizer, penalty, rate_at
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import Processes
from pipelines.training.run import Curve, DivergedError, Run, Setting, batches_of, train
from pipelines.training.trials import Head, Trainer, Trial
from tests.conftest import draw_image

CPU = torch.device("cpu")


def _extraction(folder: Path) -> Extraction:
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu", dtype="float32")
    return extract(load_images(folder), options)


def _maps(extraction: Extraction, *starts: str, n_views: int = 2) -> dict[str, StoredMaps]:
    return store_maps(
        extraction, choose_starts(extraction.backbone.graph, starts), augment=("crop", "flip"),
        n_views=n_views, dtype="float32", random_state=3, progress=Silent(),
    )  # fmt: skip


def _view(extraction: Extraction, image: int, number: int) -> torch.Tensor:
    """Draw one view of one image, by itself."""
    own = vars(extraction.backbone.preprocessing)
    preprocessing = AugmentedPreprocessing(
        **own, augment=("crop", "flip"), random_state=3, numbers=(number,)
    )
    digest = extraction.digests[image].tobytes()
    return preprocessing.crops(extraction.images.source.open(image), digest)


def test_a_view_depends_on_seed_image_and_number_only() -> None:
    image = draw_image(5, size=(90, 70))
    own = {"resize_size": 64, "crop_size": 56}
    everything = AugmentedPreprocessing(
        **own, augment=("crop", "flip", "rotate", "color"), numbers=(1, 2, 3)
    )
    three = everything.crops(image, b"one image's digest")
    alone = replace(everything, numbers=(3,)).crops(image, b"one image's digest")
    assert torch.equal(alone[0], three[2])
    others = [
        replace(everything, numbers=(3,)).crops(image, b"another digest!!!!"),
        replace(everything, numbers=(3,), random_state=1).crops(image, b"one image's digest"),
        replace(everything, numbers=(4,)).crops(image, b"one image's digest"),
    ]
    assert not any(torch.equal(alone, other) for other in others)
    assert three.shape == (3, 3, 56, 56)


def test_crops_and_mirror_images_are_of_the_resized_image() -> None:
    image = draw_image(5, size=(80, 64))
    drawn = AugmentedPreprocessing(
        resize_size=64, crop_size=56, augment=("crop", "flip"), numbers=tuple(range(1, 60))
    )
    whole = np.asarray(image)  # As large as it is resized to.
    windows = {
        np.ascontiguousarray(side[y : y + 56, x : x + 56]).tobytes()
        for side in (whole, whole[:, ::-1])
        for y in range(9)
        for x in range(25)
    }
    crops = [np.ascontiguousarray(c.permute(1, 2, 0)).tobytes() for c in drawn.crops(image, b"x")]
    assert all(crop in windows for crop in crops)
    assert len(set(crops)) > 40


@pytest.mark.parametrize("size", [(30, 40), (4000, 20), (20, 4000), (57, 57)])
def test_images_of_every_shape_have_views(size: tuple[int, int]) -> None:
    drawn = AugmentedPreprocessing(
        resize_size=64, crop_size=64, augment=("crop", "rotate", "color"), numbers=(1, 2)
    )
    assert drawn.crops(Image.new("RGB", size, "red"), b"x").shape == (2, 3, 64, 64)


def test_unknown_augmentations_are_named() -> None:
    with pytest.raises(ValueError, match="shear"):
        parse_augmentations("flip,shear")


def test_stored_maps_are_what_the_network_computes(image_folder: Path) -> None:
    extraction = _extraction(image_folder)
    maps = _maps(extraction, "input", "conv3")
    backbone = extraction.backbone
    before_conv3: list[torch.Tensor] = []
    hooked = backbone.model.get_submodule("conv3")
    first = next(m for m in hooked.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_hook(lambda _, given, __: before_conv3.append(given[0].clone()))
    for image, view in ((0, 1), (7, 2), (35, 1)):
        pixels = _view(extraction, image, view)
        with torch.inference_mode():
            backbone.model(backbone.preprocessing.normalize(pixels))
        got = maps["conv3"].read(np.array([image]), view)
        torch.testing.assert_close(got, before_conv3[-1].flatten(1), rtol=1e-4, atol=1e-5)
        stored = maps["input"].read(np.array([image]), view)
        torch.testing.assert_close(stored * 255, pixels.flatten(1).float())
    handle.remove()
    # More views than are stored begin anew.
    again = maps["conv3"].read(np.array([4, 2]), 3)
    assert torch.equal(again, maps["conv3"].read(np.array([4, 2]), 1))


def test_training_on_stored_maps_is_training_the_whole_network(image_folder: Path) -> None:
    """The oracle is a plain loop: the whole network, everything before the start frozen."""
    extraction = _extraction(image_folder)
    backbone = extraction.backbone
    [start] = choose_starts(backbone.graph, "fc6")
    maps = _maps(extraction, "fc6")["fc6"]
    images = np.arange(0, 36, 2)
    labels = np.unique(extraction.images.labels, return_inverse=True)[1][images]
    options = FinetuneOptions(batch_size=6, lr_ratio=0.1, warmup=0.2)
    setting = Setting(lr=0.02, weight_decay=1e-3, epochs=2)
    head = np.random.default_rng(0).normal(size=(3, 512)) * 0.05
    network = Suffix(backbone.graph, start, 3, backbone.preprocessing)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head))
    run = Run(
        network, maps, images, labels, options=options, setting=setting, seed=(5,), device=CPU
    )
    curve = train(run, 2)

    own = load_backbone("bundled")
    model = own.model
    classifier = nn.Linear(512, 3)
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(head))
        classifier.bias.zero_()
    trained = [p for name in ("fc6", "fc7") for p in model.get_submodule(name).parameters()]
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("conv")}
    for parameter in trained:
        parameter.requires_grad_(True)
    read: list[torch.Tensor] = []
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_hook(lambda _, given, __: read.append(given[0]))
    groups = [
        {"params": [classifier.weight], "lr": 0.02, "weight_decay": 1e-3},
        {"params": [classifier.bias], "lr": 0.02, "weight_decay": 0.0},
        {"params": [p for p in trained if p.ndim > 1], "lr": 0.002, "weight_decay": 1e-3},
        {"params": [p for p in trained if p.ndim == 1], "lr": 0.002, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    rates, step, losses = [group["lr"] for group in groups], 0, []
    for epoch in range(2):
        rng, total = np.random.default_rng([5, epoch]), 0.0
        rng.integers(2**63)
        for batch in np.array_split(rng.permutation(18), 3):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_at(step, 6, n_warmup=1)
            pixels = torch.cat([_view(extraction, int(images[i]), 1 + epoch) for i in batch])
            model(own.preprocessing.normalize(pixels))
            loss = F.cross_entropy(classifier(read.pop()), torch.from_numpy(labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*trained, *classifier.parameters()], 5.0)
            optimizer.step()
            step += 1
            total += float(loss.detach()) * len(batch)
        losses.append(total / 18)
    assert curve.loss == pytest.approx(losses, rel=1e-4)
    state = run.network.body.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith(("fc6", "fc7")):
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-6)
        elif name in frozen:
            assert torch.equal(value, frozen[name])
    torch.testing.assert_close(run.network.head.weight, classifier.weight, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_training_begins_where_the_logistic_regression_ends(
    image_folder: Path, tmp_path: Path, n_classes: int
) -> None:
    if n_classes == 2:
        (image_folder / "red").rename(tmp_path / "red")
    extraction = _extraction(image_folder)
    samples = extraction.images.labels
    numbers = np.unique(samples, return_inverse=True)[1]
    options = FinetuneOptions(starts="fc6", views_cached=1, epochs=1, lr=1e-3, weight_decay=0.0)
    trainer = prepare(extraction, numbers, options, progress=Silent())
    codes = last_codes(extraction, Silent())()
    protocol = Protocol(cv=3)
    everything = np.arange(len(samples))
    [head] = fit_heads(codes, Samples(y=samples), [everything], protocol)
    trial = Trial(
        candidate="fc6", train=everything, test=everything, head=head,
        setting=Setting(lr=1e-3, weight_decay=0.0, epochs=1), seed=0,
    )  # fmt: skip
    [outcome] = trainer.run([trial])
    probe = LogisticCV(Cs=np.array(protocol.grid), cv=3, scoring="neg_log_loss", random_state=0)
    expected = log_loss(numbers, probe.fit(codes, numbers).predict_proba(codes))
    assert outcome.first_loss == pytest.approx(expected, abs=2e-3)  # Maps are float16 here.


def test_a_random_head_begins_by_guessing(image_folder: Path) -> None:
    extraction = _extraction(image_folder)
    labels = extraction.images.labels
    numbers = np.unique(labels, return_inverse=True)[1]
    options = FinetuneOptions(starts="fc6", views_cached=1, head="random")
    trainer = prepare(extraction, numbers, options, progress=Silent())
    zeros = Head(weight=np.zeros((3, 512)), bias=np.zeros(3))
    head = start_head(zeros, last_codes(extraction, Silent())(), random=True, seed=0)
    assert np.abs(head.weight).min() > 0
    everything = np.arange(len(labels))
    trial = Trial(
        candidate="fc6", train=everything, test=everything, head=head,
        setting=Setting(lr=1e-3, weight_decay=0.0, epochs=1), seed=0,
    )  # fmt: skip
    [outcome] = trainer.run([trial])
    assert outcome.first_loss == pytest.approx(math.log(3), rel=0.1)


def test_no_image_is_lost_and_no_batch_has_one() -> None:
    for n in range(2, 200):
        batches = list(batches_of(n, 64, np.random.default_rng(n)))
        assert min(map(len, batches)) >= 2
        assert max(map(len, batches)) <= 65
        assert sorted(np.concatenate(batches).tolist()) == list(range(n))


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        ("cosine", lambda o: CosineAnnealingLR(o, 40)),
        ("step", lambda o: MultiStepLR(o, [20, 30], 0.1)),
        ("exponential", lambda o: ExponentialLR(o, 0.01 ** (1 / 40))),
    ],
)
def test_rates_fall_as_those_of_pytorch(kind: str, schedule: Callable[..., object]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs: list[float] = []
    scheduler = schedule(optimizer)
    for _ in range(40):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    assert [rate_at(step, 40, kind=kind) for step in range(40)] == pytest.approx(theirs)


def test_biases_and_norms_are_not_decayed_and_pretrained_weights_learn_slower() -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=32)
    [start] = choose_starts(backbone.graph, "layer4")
    network = Suffix(backbone.graph, start, 3, backbone.preprocessing)
    options = FinetuneOptions(optimizer="adamw", lr_ratio=0.25)
    optimizer = make_optimizer(network, options, lr=0.4, weight_decay=0.1)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(0.4 if name.startswith("head") else 0.1)
        norm_or_bias = name.endswith("bias") or ".bn" in name or "downsample.1" in name
        assert (group["weight_decay"] == 0) == norm_or_bias


def test_norms_are_limited_neuron_by_neuron_and_penalties_are_sums() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(
            torch.ones(3, 2, 3, 3) * torch.tensor([0.1, 1, 10]).view(3, 1, 1, 1)
        )
    weights = [network[0].weight, network[2].weight]
    expected = 0.5 * sum(float(w.abs().sum().detach()) for w in weights)
    assert float(torch.as_tensor(penalty(network, 0.5)).detach()) == pytest.approx(expected)
    before = network[0].weight[0].clone()
    limit_norms(network, 2.0)
    norms = network[0].weight.flatten(1).norm(dim=1)
    assert torch.equal(network[0].weight[0], before)
    assert norms[1:].tolist() == pytest.approx([2.0, 2.0], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"optimizer": "lion"}, "lion"), ({"schedule": "linear"}, "linear"), ({"head": "x"}, "x"),
        ({"lr": "1e-1:1e-3"}, "1e-1:1e-3"), ({"lr": 0}, "0"), ({"lr": "fast"}, "fast"),
        ({"weight_decay": "-1"}, "-1"), ({"momentum": 1.0}, "1.0"), ({"dropout": -0.1}, "-0.1"),
        ({"epochs": 0}, "0"), ({"batch_size": 1}, "1"), ({"max_norm": 0.0}, "0.0"),
        ({"momentum": 0.0}, "nesterov"), ({"seeds": 0}, "0"), ({"views_cached": 0}, "0"),
        ({"augment": "none", "views_cached": 4}, "views_cached=4"),
        ({"augment": "none", "fresh": True}, "fresh"),
        ({"fresh": True, "views_cached": 4}, "fresh"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum=0.5"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FinetuneOptions(**wrong)


def _small(image_folder: Path, folder: Path | None, **options: Any) -> tuple[Trainer, Trial]:
    extraction = _extraction(image_folder)
    numbers = np.unique(extraction.images.labels, return_inverse=True)[1]
    chosen = FinetuneOptions(**({"starts": "fc6", "views_cached": 2} | options))
    trainer = prepare(extraction, numbers, chosen, progress=Silent())
    trainer = replace(trainer, kept=None if folder is None else KeptTrials(folder))
    head = Head(weight=np.zeros((3, 512)), bias=np.zeros(3))
    setting = Setting(lr=0.05, weight_decay=1e-4, epochs=3)
    train, test = np.arange(0, 36, 2), np.arange(1, 36, 2)
    return trainer, Trial(
        candidate="fc6", train=train, test=test, head=head, setting=setting, seed=1
    )


def test_finished_trials_are_kept_and_others_are_run(image_folder: Path, tmp_path: Path) -> None:
    trainer, trial = _small(image_folder, tmp_path / "trials")
    [first] = trainer.run([trial])
    [file] = (tmp_path / "trials").glob("*.npz")
    changed = file.stat().st_ino
    [again] = trainer.run([trial])
    assert file.stat().st_ino == changed
    np.testing.assert_array_equal(first.log_proba, again.log_proba)
    assert vars(first.curve) == vars(again.curve)
    file.write_bytes(file.read_bytes()[:100])  # Damaged: run again.
    [fresh] = trainer.run([trial])
    np.testing.assert_array_equal(first.log_proba, fresh.log_proba)
    # A schedule for more epochs is another one from its first step on.
    longer = replace(trial, setting=replace(trial.setting, epochs=4))
    trainer.run([replace(trial, setting=replace(trial.setting, lr=0.04)), longer])
    assert len(list((tmp_path / "trials").glob("*.npz"))) == 3


def test_trials_are_found_again_in_a_dataset_of_another_order(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(*splits: str) -> Any:
        rows = [
            f"{file},{file.parent.name},{split}"
            for split in splits
            for file in sorted((digits / split).rglob("*.png"))
        ]
        table = tmp_path / f"{splits[0]}.csv"
        table.write_text("\n".join(["path,label,split", *rows]))
        return compare(
            table, backbone="bundled", layers="fc7.relu", Cs=(1e-3, 1e-1), cv=3, controls="none",
            finetune=FinetuneOptions(starts="fc6", epochs=3, views_cached=1),
        )  # fmt: skip

    first = compared("train", "test")
    monkeypatch.setattr(Run, "step_epoch", None)  # Nothing is trained.
    again = compared("test", "train")
    for one, other in zip(first.comparison.layers, again.comparison.layers, strict=True):
        assert (one.score, one.train_score, one.cv_score) == (
            other.score, other.train_score, other.cv_score,
        )  # fmt: skip


def test_a_trial_takes_nothing_from_those_beside_it(image_folder: Path) -> None:
    trainer, trial = _small(image_folder, None, dropout=0.3)
    other = replace(trial, setting=replace(trial.setting, lr=0.5))
    first, _, again = trainer.run([trial, other, trial])
    np.testing.assert_array_equal(first.log_proba, again.log_proba)
    assert first.curve == again.curve


def test_a_trial_that_was_interrupted_goes_on_from_its_last_epoch(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, trial = _small(image_folder, tmp_path / "trials", dropout=0.3, optimizer="adam")
    alone = replace(trainer, kept=None)
    [undisturbed] = alone.run([trial])
    monkeypatch.setattr("pipelines.training.trials.CHECKPOINT_SECONDS", 0.0)
    step, done = Run.step_epoch, []

    def interrupted(run: Run) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        step(run)
        done.append(run.epoch)

    monkeypatch.setattr(Run, "step_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run([trial])
    done.clear()
    [outcome] = trainer.run([trial])
    assert done == [3]  # The first two are not repeated.
    np.testing.assert_array_equal(outcome.log_proba, undisturbed.log_proba)
    assert outcome.curve == undisturbed.curve
    assert outcome.first_loss == undisturbed.first_loss
    assert outcome.seconds > 0
    assert [file.suffix for file in (tmp_path / "trials").iterdir()] == [".npz"]


def test_a_damaged_checkpoint_is_not_gone_on_with(image_folder: Path, tmp_path: Path) -> None:
    trainer, trial = _small(image_folder, tmp_path / "trials")
    network = trainer.train(trial)
    [file] = (tmp_path / "trials").glob("*.pt")
    again = trainer.train(trial)  # Read, not trained.
    file.write_bytes(file.read_bytes()[:500])
    anew = trainer.train(trial)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, anew.state_dict()[name])


def test_trainings_are_kept_beside_the_store_and_removed_with_what_is_old(
    image_folder: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = Path(os.environ["CNN_CODES_STORE"]) / "trials"
    trainer, trial = _small(image_folder, folder)
    trainer.run([trial, replace(trial, seed=5)])
    old, young = sorted(folder.iterdir())
    os.utime(old, (0, 0))
    assert "of trainings" in run_cli("cache", "list").stderr
    assert run_cli("cache", "verify").returncode == 0
    assert "1 file of trainings" in run_cli("cache", "prune", "--older-than", "1d").stderr
    assert list(folder.iterdir()) == [young]
    trainer.run([replace(trial, seed=5), trial])
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("start", ["input", "conv4"])
def test_fresh_views_are_those_that_a_store_would_hold(image_folder: Path, start: str) -> None:
    extraction = _extraction(image_folder)
    stored = _maps(extraction, start, n_views=3)[start]
    fresh = FreshMaps(
        stored=_maps(extraction, start, n_views=0)[start], images=extraction.images,
        backbone=extraction.backbone, start=choose_starts(extraction.backbone.graph, start)[0],
        augment=("crop", "flip"), random_state=3, precision="float32", device="cpu",
    )  # fmt: skip
    images = np.array([7, 0, 12])
    for view in (0, 1, 2, 3):
        expected = stored.read(images, view)
        assert torch.allclose(fresh.read(images, view).float(), expected, atol=1e-5), view
    # The fourth is new, where a store begins anew with the first.
    assert torch.equal(stored.read(images, 4), stored.read(images, 1))
    assert not torch.allclose(fresh.read(images, 4), fresh.read(images, 1), atol=1e-2)


def test_new_views_in_every_epoch_train_as_stored_ones_do(image_folder: Path) -> None:
    kept, trial = _small(image_folder, None, views_cached=3)
    fresh, _ = _small(image_folder, None, fresh=True, views_cached=None)
    assert kept.key(trial) != fresh.key(trial)
    ours, theirs = fresh.run([trial, replace(trial, seed=2)]), kept.run([trial])
    # Stored maps are float16.
    np.testing.assert_allclose(ours[0].curve.loss, theirs[0].curve.loss, rtol=2e-3)
    np.testing.assert_allclose(ours[0].log_proba, theirs[0].log_proba, atol=0.02)


def test_rates_that_diverge_are_named_and_never_chosen(image_folder: Path) -> None:
    trainer, trial = _small(image_folder, None, lr=1e7, weight_decay=0.0, epochs=4)
    score = Score(scoring="accuracy", n_classes=3)
    folds = [(np.arange(12), np.arange(12, 18))]
    with pytest.raises(DivergedError, match="1e\\+07"):
        search(trainer, "fc6", trial.train, folds, [trial.head], score, seed=0)


@pytest.mark.parametrize(("few", "many", "epochs"), [(0.80, 0.79, 20), (0.80, 0.70, 5),
                                                     (0.80, 0.82, 20)])  # fmt: skip
def test_fewer_epochs_are_chosen_only_where_that_is_no_chance(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, few: float, many: float, epochs: int
) -> None:
    n, rng = 1000, np.random.default_rng(0)
    numbers = np.arange(n) % 2
    right = {5: rng.random(n) < few, 20: rng.random(n) < many}

    def run(trainer: Trainer, trials: list[Trial], advance: object) -> list[Outcome]:
        shares = []
        for trial in trials:
            hit = right[trial.setting.epochs][trial.test]
            wrong = np.where(hit, numbers[trial.test], 1 - numbers[trial.test])
            shares.append(np.log(np.eye(2)[wrong] * 0.8 + 0.1))
        return [
            Outcome(
                curve=Curve(loss=[1.0]), log_proba=log_proba, first_loss=1.0, train_loss=1.0,
                train_log_proba=log_proba[:1],
                filters=np.empty((0, 3, 0, 0), np.float32), seconds=1.0,
            )
            for log_proba in shares
        ]  # fmt: skip

    monkeypatch.setattr(Trainer, "run", run)
    trainer, _ = _small(image_folder, None)
    trainer = replace(trainer, numbers=numbers)
    folds = [(np.arange(0, 800), np.arange(800, 1000)), (np.arange(200, 1000), np.arange(200))]
    head = Head(weight=np.zeros((2, 512)), bias=np.zeros(2))
    score = Score(scoring="accuracy", n_classes=2)
    chosen = search(trainer, "fc6", np.arange(n), folds, [head, head], score, seed=0)
    assert chosen.best.setting.epochs == epochs
    # By hand: on the 400 images that validate.
    validated = np.r_[800:1000, 0:200]
    difference = right[5][validated].astype(float) - right[20][validated]
    by_hand = difference.mean() > difference.std(ddof=1) / math.sqrt(400)
    assert (epochs == 5) == by_hand


def test_settings_are_drawn_over_the_whole_range() -> None:
    options = FinetuneOptions(lr="1e-4:1", weight_decay="1e-6:1e-2")
    rng = np.random.default_rng(0)
    drawn = draw_settings(options, 500, rng)
    parts = sorted(math.floor(math.log10(one.lr) + 4) for one in drawn)
    assert parts == [0, 1, 2, 3]
    assert all(1e-6 <= one.weight_decay <= 1e-2 for one in drawn)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Three digits of 24 images each: strokes, as the bundled network knows them."""
    images, labels = load_digits(return_X_y=True)
    for label, name in enumerate(("none", "one", "two")):
        for i, row in enumerate(images[labels == label][:24]):
            folder = tmp_path / "data" / ("test" if i >= 14 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8))
            pixels.resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return tmp_path / "data"


def test_fine_tuned_candidates_are_rows_of_the_report(
    digits: Path, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = (
        "compare", digits, "--backbone", "bundled", "--layers", "fc7.relu", "--cv", 3,
        "--Cs", "1e-3,1e-1", "--controls", "none", "--finetune", "--from", "fc6", "--scratch",
        "--epochs", 4, "--views-cached", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    done = run_cli(*words)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {(row["layer"], row["classifier"]): row for row in report["layers"]}
    assert set(rows) == {("fc7.relu", "svm"), ("fc6", "finetune"), ("scratch", "finetune")}
    assert rows["fc6", "finetune"]["C"] is None
    with (tmp_path / "out" / "scores.csv").open() as file:
        folds = list(csv.DictReader(file))
    assert {row["classifier"] for row in folds} == {"svm", "finetune"}
    scores = {row["layer"]: float(row["score"]) for row in folds if row["classifier"] == "finetune"}
    assert scores["fc6"] == pytest.approx(rows["fc6", "finetune"]["score"])
    assert report["best"]["layer"] in {layer for layer, _ in rows}
    folder = Path(os.environ["CNN_CODES_STORE"]) / "trials"
    trials = {file.name: file.stat().st_ino for file in folder.iterdir()}
    assert trials
    again = run_cli(*words)
    assert again.returncode == 0
    assert trials == {file.name: file.stat().st_ino for file in folder.iterdir()}
    repeated = json.loads((tmp_path / "out" / "report.json").read_text())
    assert repeated["layers"] == report["layers"]


def test_where_fine_tuning_is_chosen_controls_are_of_the_linear_classifiers(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(*arguments: Any) -> list[Fit]:
        return [replace(fit, cv_score=0.1) for fit in evaluate_layer(*arguments)]

    monkeypatch.setattr("pipelines.comparison.evaluate.evaluate_layer", worse)
    study = compare(
        digits, backbone="bundled", layers="conv1.relu", Cs=(1e-3, 1e-1), cv=3,
        controls="majority,shuffled,pixels,pre",
        finetune=FinetuneOptions(starts="fc6", epochs=4, views_cached=1),
    )  # fmt: skip
    assert (study.best.layer, study.best.classifier) == ("fc6", "finetune")
    assert study.linear.best.layer == "conv1.relu"
    report = make_report(study)
    write_report(tmp_path / "out", report, study)
    assert [control["name"] for control in report["controls"]] == [
        "majority", "shuffled", "pixels", "pre",
    ]  # fmt: skip
    assert "conv1.relu" in report["cost"]
    assert "fine-tuned from fc6" in (tmp_path / "out" / "report.html").read_text()
    fitted = study.fit()
    taken = study.best.taken
    assert (fitted.card["layer"], fitted.card["classifier"]) == taken


def test_progress_is_of_all_images_and_says_the_loss(digits: Path) -> None:
    class Counted(Silent):
        def __init__(self) -> None:
            self.steps: dict[str, list[int]] = {}
            self.notes: list[str] = []

        @contextmanager
        def step(self, name: str, total: int) -> Iterator[Advance]:
            counts = self.steps[name] = [total, 0]

            def advance(n: int, /, note: str = "") -> None:
                counts[1] += n
                self.notes.append(note)

            yield advance

    said = []
    for _ in range(2):  # And where every trial was finished before.
        progress = Counted()
        study = compare(
            digits, backbone="bundled", layers="fc7.relu", Cs=(1e-3, 1e-1), cv=3, controls="none",
            finetune=FinetuneOptions(starts="fc6", epochs=4, views_cached=1), progress=progress,
        )  # fmt: skip
        total, done = progress.steps["Fine-tuning from fc6, images"]
        assert done == total > 0
        said.append(any(note.startswith("loss ") for note in progress.notes))
    assert said == [True, False]
    study.fit("fc6")
    total, done = progress.steps["Fine-tuning from fc6, images"]
    assert done == total > 0


def test_without_test_images_each_fold_has_its_own_search(digits: Path) -> None:
    study = compare(
        digits / "train", backbone="bundled", layers="fc7.relu", Cs=(1e-2,), cv=3, controls="none",
        finetune=FinetuneOptions(starts="fc7", epochs=2, views_cached=1, augment="flip"),
    )  # fmt: skip
    [found] = study.finetuned
    assert len(found.chosen) == len(found.fits) == 3
    tested = np.concatenate([split.test for split in study.comparison.scored.splits])
    assert sorted(tested.tolist()) == list(range(42))
    assert all(np.isfinite(fit.answers).all() for fit in found.fits)


def test_a_start_that_diverges_leaves_the_others(digits: Path) -> None:
    study = compare(
        digits, backbone="bundled", layers="fc7.relu", Cs=(1e-2,), cv=3, controls="none",
        finetune=FinetuneOptions(starts="fc7", epochs=3, views_cached=1, lr=1e3, weight_decay=0.0),
    )  # fmt: skip
    assert study.finetuned == ()
    assert any("fc7 diverged" in note for note in study.notes)
    assert study.best.layer == "fc7.relu"
    assert "diverged" in study.advice.text
    assert "--finetune" not in study.advice.text


def test_what_diverges_after_validation_is_left_out_and_never_handed_over(
    digits: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Run.step_epoch

    def diverging(run: Run) -> None:
        step(run)
        run.curve.diverged = len(run._images) > 30  # All 42 training images, not those of a fold.

    monkeypatch.setattr(Run, "step_epoch", diverging)
    study = compare(
        digits, backbone="bundled", layers="fc7.relu", Cs=(1e-2,), cv=3, controls="none",
        finetune=FinetuneOptions(starts="fc7", epochs=3, views_cached=1, lr=0.001),
    )  # fmt: skip
    assert study.finetuned == ()
    assert any("fc7 diverged" in note and "0.001" in note for note in study.notes)
    trainer, trial = _small(image_folder, None)
    with pytest.raises(DivergedError, match="fc6 diverged"):
        trainer.train(replace(trial, train=np.arange(36), test=np.arange(0)))


def test_learning_rates_by_default_are_those_of_the_optimizer() -> None:
    low, high = FinetuneOptions().range("lr")
    smaller = FinetuneOptions(optimizer="adamw").range("lr")
    assert smaller[0] < low
    assert smaller[1] < high
    assert FinetuneOptions(optimizer="adamw", lr=0.01).range("lr") == (0.01, 0.01)


@pytest.mark.parametrize("wrong", [{"starts": "conv9"}, {"augment": "zoom"}])
def test_what_is_not_available_is_refused_before_anything_is_extracted(
    digits: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        compare(digits, backbone="bundled", finetune=FinetuneOptions(**wrong))
    assert not Path(os.environ["CNN_CODES_STORE"]).exists()


@pytest.mark.parametrize("wrong", [{"precision": "float16"}, {"precision": "bfloat16"},
                                   {"dense": True}])  # fmt: skip
def test_what_a_device_or_network_cannot_train_in_is_refused(
    digits: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    monkeypatch.setattr("pipelines.finetuning.prepare.computes_in",
                        lambda device, dtype: dtype == torch.float32)  # fmt: skip
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        compare(digits, backbone="bundled", finetune=True, **wrong)
    assert not Path(os.environ["CNN_CODES_STORE"]).exists()


def test_options_of_fine_tuning_need_it(
    digits: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_cli("compare", digits, "--backbone", "bundled", "--from", "fc6")
    assert done.returncode != 0
    assert "--finetune" in done.stderr


def test_few_images_of_a_class_are_not_searched(digits: Path) -> None:
    study = compare(
        digits, backbone="bundled", layers="fc7.relu", Cs=(1e-2,), cv=3, repeats=2,
        train_sizes=(5, "all"), controls="none",
        finetune=FinetuneOptions(starts="fc6", epochs=4, views_cached=1),
    )  # fmt: skip
    [found] = study.finetuned
    few, many = found.chosen
    assert (few.searched, len(few.tried)) == (False, 1)
    assert (many.searched, len(many.tried)) == (True, 6)
    assert len(found.fits) == len(study.comparison.scored.splits) == 3


def test_a_fine_tuned_network_is_handed_over(
    digits: Path, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file = tmp_path / "cells.safetensors"
    done = run_cli(
        "fit", digits, "--backbone", "bundled", "--layers", "fc7.relu", "--cv", 3,
        "--Cs", "1e-3,1e-1", "--from", "conv5", "--epochs", 4, "--views-cached", 1, "--out", file,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fine-tuned from conv5" in done.stdout
    predicted = [run_cli("predict", file, digits / "test").stdout for _ in range(2)]
    assert predicted[0] == predicted[1]
    rows = list(csv.DictReader(predicted[0].splitlines()))
    assert len(rows) == 30
    right = [Path(row["path"]).parent.name == row["label"] for row in rows]
    assert np.mean(right) > 0.8  # It was trained on them.

    # Predicted by the whole network, from the file's weights alone.
    network = load_backbone("bundled", weights=str(file))
    image = Image.open(rows[0]["path"]).convert("RGB")
    pixels = network.preprocessing.crop(image)[None]
    with torch.inference_mode():
        probabilities = network.model(network.preprocessing.normalize(pixels)).softmax(1)[0]
    given = [float(rows[0][name]) for name in ("none", "one", "two")]
    assert given == pytest.approx(probabilities.tolist(), abs=1e-4)
    # Before the start nothing has changed; after it, all has.
    before, after = load_backbone("bundled").model.state_dict(), network.model.state_dict()
    for name, value in before.items():
        if name.startswith(("conv1", "conv2", "conv3", "conv4")):
            assert torch.equal(value, after[name]), name
        elif name.startswith(("conv5", "fc6", "fc7")):
            assert not torch.equal(value, after[name]), name
    renamed = file.rename(tmp_path / "cells.skops")
    misnamed = run_cli("predict", renamed, digits / "test")
    assert (misnamed.returncode, "rename it" in misnamed.stderr) == (1, True)
    renamed.rename(file)
    # Its codes are compared, too, and that it has seen the images is said.
    compared = run_cli(
        "compare", digits, "--backbone", "bundled", "--weights", file, "--layers", "fc7.relu",
        "--Cs", "1e-3,1e-1", "--cv", 3, "--controls", "none", "--out", tmp_path / "again",
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "fine-tuned on 30 images of those that are tested here" in compared.stdout
    assert "fine-tuned on 30 images" in (tmp_path / "again" / "report.html").read_text()


def test_a_fine_tuned_classifier_is_one_of_scikit_learn(digits: Path) -> None:
    files = sorted((digits / "train").rglob("*.png"))
    labels = [file.parent.name for file in files]
    classifier = FineTuned("bundled", "fc6", epochs=4, views_cached=1, cv=3, lr=0.01)
    scores = cross_val_score(classifier, files, labels, cv=3)
    assert scores.mean() > 0.8
    fitted = clone(classifier).fit(files, labels)
    proba = fitted.predict_proba(files[::5])
    assert proba.sum(1) == pytest.approx(np.ones(len(proba)))
    assert fitted.classes_.tolist() == ["none", "one", "two"]
    assert (fitted.predict(files[::5]) == fitted.classes_[proba.argmax(1)]).all()
    again = clone(classifier).fit(files, labels)
    np.testing.assert_array_equal(again.predict_proba(files[::5]), proba)


@pytest.mark.parametrize("too", [0.5, 3.0])
def test_temperatures_make_probabilities_right(too: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3)) * 2
    truth = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    sure = scores * too
    log_proba = sure - np.logaddexp.reduce(sure, axis=1, keepdims=True)
    assert calibrate([log_proba], [truth]) == pytest.approx(too, rel=0.1)
    # Where every image is right, probabilities stay below 1: by as much as few images leave open.
    few, right = log_proba[:12], log_proba[:12].argmax(1)
    temperature = calibrate([few], [right])
    scaled = few / temperature
    probabilities = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)).max(1)
    assert 0.6 < probabilities.mean() < 0.97


def test_a_command_that_was_killed_goes_on_to_the_same_answer(
    digits: Path, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = [
        "compare", str(digits), "--backbone", "bundled", "--layers", "fc7.relu", "--cv", "3",
        "--Cs", "1e-3,1e-1", "--controls", "none", "--finetune", "--from", "fc6", "--epochs", "4",
        "--views-cached", "1", "--jobs", "1", "--store",
    ]  # fmt: skip
    killing = """
import os, signal, sys
from pipelines.cli.app import main
from pipelines.training import trials
from pipelines.training.run import Run
trials.CHECKPOINT_SECONDS, step, left = 0.0, Run.step_epoch, [10]
def step_epoch(run):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    step(run)
Run.step_epoch = step_epoch
main(sys.argv[1:])
"""
    killed = subprocess.run(
        [sys.executable, "-c", killing, *words, str(tmp_path / "one"), "--out", "out-killed"],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "one" / "trials").glob("*.pt"))
    reports = []
    for store in ("one", "other"):
        done = run_cli(*words, tmp_path / store, "--out", tmp_path / f"out-{store}")
        assert done.returncode == 0, done.stderr
        reports.append(json.loads((tmp_path / f"out-{store}" / "report.json").read_text()))
    for key in ("layers", "best"):
        assert reports[0][key] == reports[1][key]
    for one, other in zip(*(report["finetune"] for report in reports), strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
    assert not list((tmp_path / "one" / "trials").glob("*.pt"))


def test_two_processes_train_as_one_does(digits: Path, tmp_path: Path) -> None:
    words = [
        "-m", "pipelines.cli", "compare", str(digits), "--backbone", "bundled", "--layers",
        "fc7.relu", "--cv", "3", "--Cs", "1e-3,1e-1", "--controls", "none", "--finetune", "--from",
        "fc6", "--epochs", "3", "--views-cached", "1", "--train-batch-size", "7", "--jobs", "1",
    ]  # fmt: skip
    reports = []
    for n in (1, 2):
        out, environment = tmp_path / str(n), {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["CNN_CODES_STORE"] = str(tmp_path / f"store-{n}")
        starting = [] if n == 1 else ["-m", "torch.distributed.run", "--standalone",
                                      "--nproc-per-node", str(n)]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *starting, *words, "--out", str(out)],
            env=environment, check=False, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report.html") == 1
        reports.append(json.loads((out / "report.json").read_text()))
    [alone], [together] = (report["finetune"] for report in reports)
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-4)
    assert together["setting"] == alone["setting"]
    assert together["options"]["batch_size"] == alone["options"]["batch_size"] == 7
    for one, two in zip(alone["trials"], together["trials"], strict=True):
        np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
        assert two["score"] == one["score"]
    assert [row["score"] for row in reports[1]["layers"]] == [
        row["score"] for row in reports[0]["layers"]
    ]


def test_several_processes_are_for_fine_tuning(digits: Path) -> None:
    two = Processes(rank=0, world_size=2)
    with pytest.raises(ValueError, match="2 processes"):
        compare(digits, backbone="bundled", processes=two)
