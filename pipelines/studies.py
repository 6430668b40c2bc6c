"""Studies: of a network's depths on images, or of the layers in a file of codes; one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

from codes.data.names import CODES_SCHEMES
from pipelines.comparison.protocol import Protocol
from pipelines.controls.controls import DEFAULT_CONTROLS
from pipelines.extraction.options import ExtractionOptions
from pipelines.given_study import GIVEN_CONTROLS, GivenStudy, compare_given
from pipelines.progress import Progress
from pipelines.study import Study
from pipelines.study import compare as compare_images
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import Processes


@overload
def compare(dataset: str | Path, *, backbone: str, **settings: Any) -> Study: ...
@overload
def compare(dataset: str | Path, *, options: ExtractionOptions, **settings: Any) -> Study: ...
@overload
def compare(dataset: str | Path, **settings: Any) -> GivenStudy: ...


def compare(
    dataset: str | Path,
    *,
    options: ExtractionOptions | None = None,
    protocol: Protocol | None = None,
    controls: str | Sequence[str] | None = None,
    drop_leaks: bool = False,
    finetune: FinetuneOptions | bool = False,
    processes: Processes | None = None,
    n_jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Study | GivenStudy:
    """Compare the depths of a network on a dataset, or the layers in a file of codes.

    Parameters
    ----------
    dataset : str or Path
        As for `codes.load_images`; or codes, as for `pipelines.exchange.given.load_given`.
    options : ExtractionOptions, optional
        What to read, with which network. Not for codes.
    protocol, drop_leaks, n_jobs, scheduler, progress
        As for `pipelines.study.compare`.
    controls : str, or sequence of str, optional
        Of `pipelines.controls.controls.CONTROLS`, joined by commas; or "none". Default: all but
        "pre"; of codes, those that need no network.
    finetune, processes
        As for `pipelines.study.compare`. Not for codes.
    **settings
        Fields of `ExtractionOptions` and of `Protocol`, such as ``backbone="resnet18"`` and
        ``train_sizes=(5, "all")``; they replace those of `options` and `protocol`. For codes,
        ``layers`` and those of `Protocol`.

    Returns
    -------
    study : Study or GivenStudy

    Raises
    ------
    TypeError
        If a setting is not one of these, or images are given and no backbone.
    ValueError
        As `pipelines.study.compare` and `pipelines.given_study.compare_given`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "iris.npz"), y=y, sepal=X[:, :2], petal=X[:, 2:])
    ...     study = compare(f"npz:{folder}/iris.npz", classifier="logistic", cv=3)
    >>> study.best.layer
    'petal'
    """
    name = str(dataset)
    if not name.startswith(CODES_SCHEMES):
        return compare_images(
            dataset,
            options=options,
            protocol=protocol,
            controls=DEFAULT_CONTROLS if controls is None else controls,
            drop_leaks=drop_leaks,
            finetune=finetune,
            processes=processes,
            n_jobs=n_jobs,
            scheduler=scheduler,
            progress=progress,
            **settings,
        )
    of_protocol = {field.name for field in fields(Protocol)}
    given = {"options": options, "finetune": finetune, "processes": processes}
    refused = [key for key, value in given.items() if value]
    refused += sorted(settings.keys() - of_protocol - {"layers"})
    if refused:
        raise TypeError(
            f"{name!r} holds codes: no network is run or trained, and {', '.join(refused)} cannot "
            f"be used. Allowed: layers, {', '.join(sorted(of_protocol))}, controls, drop_leaks, "
            "n_jobs, scheduler, progress."
        )
    layers = settings.pop("layers", "default")
    return compare_given(
        name,
        layers=layers,
        protocol=replace(protocol or Protocol(), **settings),
        controls=GIVEN_CONTROLS if controls is None else controls,
        drop_leaks=drop_leaks,
        n_jobs=n_jobs,
        scheduler=scheduler,
        progress=progress,
    )
