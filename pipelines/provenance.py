"""Provenance: what a result was made with."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on.

    That of timm where it is loaded, which only its own models make it.
    """
    names = ["cnn-codes", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "zarr"]
    names += ["timm"] * ("timm" in sys.modules)
    return {"python": platform.python_version()} | {name: version(name) for name in names}
