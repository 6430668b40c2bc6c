"""Provenance: what a result was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    names = ("cnn-codes", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "zarr")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
