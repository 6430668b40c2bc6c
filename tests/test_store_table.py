"""Each entry of the store shows what makes it differ from the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codes import load_backbone, load_images
from codes.backbones.backbone import pixels_backbone
from codes.backbones.bundled import bundled
from pipelines.cli.app import main
from pipelines.cli.store_table import fit_rows
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions


def test_every_line_says_what_makes_it_differ(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_images(image_folder).take(np.arange(3))
    plain = ExtractionOptions(backbone="bundled", layers="fc7.relu")
    others = {
        "normalize half": {"normalize": "half"},
        "normalize 0.25:0.5": {"normalize": "0.25:0.5"},
        "96 px": {"image_size": 96, "dense": True},
        "dense": {"dense": True},
        "views hflip": {"views": "hflip"},
        "precision bfloat16": {"precision": "bfloat16"},
    }
    made = {"–": extract(images, plain)}
    made |= {word: extract(images, replace(plain, **more)) for word, more in others.items()}
    for seed, name in enumerate(("a/w.pt", "b/w.pt", "c.pt", "c.pt")):  # The last overwrites.
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        torch.save(bundled(weights=False, random_state=seed).state_dict(), file)
        found = extract(images, replace(plain, weights=str(file)))
        made[f"weights {found.backbone.weights_digest[:8]}" if seed > 1 else name] = found
    extract(images, replace(plain, layers="conv5.relu", pool="avg,max", activation="pre"))
    extract(images, replace(plain, layers="conv5.relu", pool="avg", dtype="float32"))

    assert main(["cache", "list"]) == 0
    head, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert len(rows) == len(made)
    column = {name: i for i, name in enumerate(head)}
    alike = [tuple(row[column[c]] for c in ("dataset", "backbone", "settings")) for row in rows]
    assert len(set(alike)) == len(rows)
    for word in made:
        assert any(word in row[column["settings"]] for row in rows), word
    for row in rows:
        assert int(row[column["layers"]]) == len(row[column["which"]].split(", "))
    [ours] = [row for row in rows if int(row[column["layers"]]) > 1]
    assert ours[column["which"]].split(", ") == [
        "conv5.relu:avg post float32", "conv5.relu:avg pre float16", "conv5.relu:max pre float16",
        "fc7.relu",
    ]  # fmt: skip

    assert main(["cache", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    keys = [entry["key"] for entry in listed]
    assert all(extraction.key.fields() in keys for extraction in made.values())
    assert [len(entry["layers"]) for entry in listed] == [int(r[column["layers"]]) for r in rows]

    for width in (80, 120, 200):
        for line in fit_rows(rows, width)[1:]:
            assert len(line) <= width
    shown = [line.partition("bundled")[2] for line in fit_rows(rows, 120)[1:]]
    for word in made:
        assert any(word in line for line in shown), word
    wide = fit_rows(rows, 400)
    assert [line.split()[0] for line in wide[1:]] == [images.name] * len(rows)


def test_names_that_end_alike_are_not_cut_to_the_same(tmp_path: Path) -> None:
    end = "/study/images/of/every/patient/train"
    rows = [
        (f"/data/{site}{end}", "bundled", "", "1", "9", "1.0 kB", "2026-01-01 00:00", "fc7")
        for site in ("east", "west")
    ]
    assert len({line.split()[0] for line in fit_rows(rows, 80)[1:]}) == 2


def test_what_is_left_of_a_comparison_without_codes_says_so(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_images(image_folder).take(np.arange(3))
    backbone = pixels_backbone(load_backbone("bundled").preprocessing)
    options = ExtractionOptions(backbone="bundled", layers="pixels", pool="grid:16")
    extract(images, options, backbone=backbone)
    assert main(["cache", "list"]) == 0
    _, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert (row[1], row[3]) == ("pixels", "0")
    assert "no codes" in row[-1]


def test_what_a_few_lack_and_copies_of_weights_are_told_too(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_images(image_folder).take(np.arange(3))
    for folder, how in (("a", "half"), ("b", "none")):  # The same weights, in two places.
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "w.pt"
        torch.save(bundled(weights=False, random_state=0).state_dict(), file)
        options = ExtractionOptions(
            backbone="bundled", layers="fc7.relu", weights=str(file), normalize=how
        )
        extract(images, options)
    dense = ExtractionOptions(backbone="bundled", layers="fc7.relu", dense=True)
    for more in ({"image_size": 96}, {"image_size": 128}, {"dense": False}):
        extract(images, replace(dense, **more))
    assert main(["cache", "list"]) == 0
    _, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert {row[2] for row in rows if row[1] == "bundled, w.pt"} == {
        "a/w.pt, normalize half", "b/w.pt, normalize none",
    }  # fmt: skip
    settings = [row[2] for row in rows if row[1] == "bundled"]
    assert len(set(settings)) == 3
    assert sum("not dense" in word for word in settings) == 1
