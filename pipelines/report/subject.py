"""What a report is about: the depths of a network, or the layers of codes that were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def given_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """Give what is known of codes that were given; None where a network made them."""
    given: dict[str, Any] | None = report.get("given")
    return given


def subject_name(report: dict[str, Any]) -> str:
    """Name the network, or the file that holds the codes."""
    backbone = report["backbone"]
    return dataset_name(report) if backbone is None else str(backbone["name"])


def dataset_name(report: dict[str, Any]) -> str:
    """Name a report's dataset, without the folder that it is in."""
    return Path(report["dataset"]["name"]).name


def layer_noun(report: dict[str, Any]) -> str:
    """Say what is compared: depths, or layers where it is not known how deep they are."""
    given = given_of(report)
    return "depth" if given is None or given["has_depths"] else "layer"


def depth_words(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Say how deep a layer is, in parentheses; nothing where that is not known."""
    return f" (depth {row['depth']:.2f})" if layer_noun(report) == "depth" else ""


def depth_axis(*reports: dict[str, Any]) -> str:
    """Say what a layer's depth means in these reports, for the axis of a figure."""
    meanings = {
        "depth": "depth: 0 is the input, 1 the output",
        "layer": "place among the layers: 1 is the last",
    }
    return ",\nor ".join(meanings[noun] for noun in sorted({layer_noun(one) for one in reports}))


def given_sentence(report: dict[str, Any]) -> str:
    """Say what is not known of codes that were given; empty where a network made them."""
    given = given_of(report)
    if given is None:
        return ""
    where = (
        "Depths are those that it gives."
        if given["has_depths"]
        else f"How deep they are in a network is not known: they are shown {given['order']}."
    )
    return (
        f"The codes were given in {given['file']}, not extracted. {where} Similarity to a "
        "network's training images, advice by it, the costs of layers, and the controls pixels, "
        "random and pre need the network and the images, and are left out."
    )
