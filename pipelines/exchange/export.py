"""Export: stored codes of a dataset → a file that other tools read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.drafts import replacing
from pipelines.exchange.arrays import DESCRIPTIONS, Labelled
from pipelines.exchange.npz import write_npz
from pipelines.exchange.parquet import require_pyarrow, write_parquet
from pipelines.exchange.zarr_groups import write_zarr
from pipelines.extraction.extract import Extraction
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress

Write = Callable[[Path, Labelled, Callable[[int], None]], None]

_WRITERS: dict[str, Write] = {".npz": write_npz, ".parquet": write_parquet, ".zarr": write_zarr}
_TAKEN = ("y", "label", "split", "group", "path", *DESCRIPTIONS)


def check_export(out: Path, options: ExtractionOptions) -> None:
    """Raise an error now if codes cannot be written when all are extracted.

    Raises
    ------
    ValueError
        If the ending names no format, pyarrow is missing for its format, a folder is there, or the
        views of an image are kept apart.
    """
    if out.suffix not in _WRITERS:
        raise ValueError(
            f"--out {str(out)!r}: the ending names the format. Allowed: {', '.join(_WRITERS)}."
        )
    if out.suffix == ".parquet":
        require_pyarrow()
    if out.suffix == ".zarr" and out.exists():
        raise ValueError(f"--out {str(out)!r} exists. Remove it, or choose another name.")
    if options.each_view:
        raise ValueError(
            "--each-view gives an image several rows of codes, and a file has one row for each "
            "image. Leave it out: views are averaged then."
        )


def export(extraction: Extraction, out: Path, progress: Progress) -> None:
    """Write the codes of a dataset, with labels, splits, groups and paths, in its order.

    Some rows at a time are in memory. A file that is there is replaced when all is written.

    Parameters
    ----------
    extraction : Extraction
    out : Path
        ``.npz``, ``.parquet`` or ``.zarr``.
    progress : Progress

    Raises
    ------
    ValueError
        As `check_export`, or if a layer has the name of another array in the file.
    """
    check_export(out, extraction.options)
    names = [tap.name for tap in extraction.taps]
    clash = [name for name in names if name in _TAKEN]
    if clash:
        raise ValueError(
            f"The layer {clash[0]!r} cannot be exported under its name: {', '.join(_TAKEN)} are "
            "other arrays in the file. Choose --layers without it."
        )
    images = extraction.images
    columns = {"path": images.source.names, "label": images.labels, "split": images.splits,
               "group": images.groups}  # fmt: skip
    labelled = Labelled(
        columns={name: np.array(v, np.str_) for name, v in columns.items() if v is not None},
        layers={name: extraction.view(name) for name in names},
        descriptions={
            "layers": names,
            "depths": [tap.layer.depth for tap in extraction.taps],
            "pools": [tap.pool for tap in extraction.taps],
        },
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress.step("Writing", len(images) * len(names)) as advance,
        replacing(out) as draft,
    ):
        _WRITERS[out.suffix](draft, labelled, advance)
