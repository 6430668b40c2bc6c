"""The comparison of a network's depths on images, or of the layers in a file of codes: a study."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from codes.data.names import CODES_SCHEMES
from pipelines.comparison.protocol import Protocol
from pipelines.controls.controls import DEFAULT_CONTROLS
from pipelines.extraction.options import ExtractionOptions
from pipelines.studies.given_study import GIVEN_CONTROLS, GivenStudy, compare_given
from pipelines.training.options import FinetuneOptions

if TYPE_CHECKING:  # Both load torch, which takes seconds, and memory that codes do not need.
    from pipelines.progress import Progress
    from pipelines.studies.network_study import NetworkStudy
    from pipelines.training.processes import Processes


@overload
def compare(dataset: str | Path, *, backbone: str, **settings: Any) -> NetworkStudy: ...
@overload
def compare(
    dataset: str | Path, *, options: ExtractionOptions, **settings: Any
) -> NetworkStudy: ...
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
) -> NetworkStudy | GivenStudy:
    """Compare the depths of a network on a dataset, or the layers in a file of codes.

    Codes of images that the store lacks are extracted first.

    Parameters
    ----------
    dataset : str or Path
        As for `codes.load_images`; or codes, as for `pipelines.exchange.loading.load_given`.
    options : ExtractionOptions, optional
        What to read, with which network. Not for codes.
    protocol : Protocol, optional
        How depths are compared.
    controls : str, or sequence of str, optional
        Of `pipelines.controls.controls.CONTROLS`, joined by commas; or "none". Default: all but
        "pre"; of codes, those that need no network.
    drop_leaks : bool, default=False
        Leave out the images that `pipelines.comparison.duplicates.without_leaks` finds. Copies of
        rows of a file have the same codes in every layer.
    finetune : bool or FinetuneOptions, default=False
        Whether the network is trained as well; or from where on, and how. Not for codes.
    processes : Processes, optional
        Those that fine-tune with this one, as `pipelines.training.processes.join_processes` gives
        them. Not for codes.
    n_jobs : int, default=1
        Processes that train classifiers.
    scheduler : str, optional
        Address of a Dask scheduler, ``tcp://HOST:PORT``, whose workers train them instead. They
        read codes from the store or the file themselves.
    progress : Progress, optional
    **settings
        Fields of `ExtractionOptions` and of `Protocol`, such as ``backbone="resnet18"`` and
        ``train_sizes=(5, "all")``; they replace those of `options` and `protocol`. For codes,
        ``layers`` and those of `Protocol`.

    Returns
    -------
    study : NetworkStudy or GivenStudy

    Raises
    ------
    TypeError
        If a setting is a field of neither, or images are given and no backbone.
    FileNotFoundError, ValueError
        As `pipelines.extract` or `pipelines.exchange.loading.load_given`; and if a class is too
        small for the folds, a control is unknown or needs a network that is not there, or both
        `n_jobs` and `scheduler` are given.
    pipelines.cluster.connection.ClusterError
        If the cluster cannot be used.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "iris.npz"), y=y, sepal=X[:, :2], petal=X[:, 2:])
    ...     study = compare(f"npz:{folder}/iris.npz", classifier="logistic", cv=3)
    >>> study.best.layer, study.tied
    ('petal', ())
    """
    if n_jobs == 0:
        raise ValueError("n_jobs=0: allowed are 1 or more, or -1, one for each core.")
    if not isinstance(finetune, bool | FinetuneOptions):
        raise TypeError(f"finetune={finetune!r}: allowed are True, False or FinetuneOptions.")
    _refuse_unknown(settings)
    if str(dataset).startswith(CODES_SCHEMES):
        network = {"options": options, "finetune": finetune, "processes": processes}
        _refuse_network(str(dataset), [name for name, value in network.items() if value], settings)
        return compare_given(
            str(dataset),
            layers=settings.pop("layers", "default"),
            protocol=replace(protocol or Protocol(), **settings),
            controls=GIVEN_CONTROLS if controls is None else controls,
            drop_leaks=drop_leaks,
            n_jobs=n_jobs,
            scheduler=scheduler,
            progress=progress,
        )
    from pipelines.studies.network_comparison import compare_network
    from pipelines.training.processes import ALONE

    known = [{field.name for field in fields(kind)} for kind in (ExtractionOptions, Protocol)]
    of_options, of_protocol = (
        {name: value for name, value in settings.items() if name in names} for names in known
    )
    if options is None and "backbone" not in of_options:
        raise TypeError('compare() needs a backbone, such as backbone="resnet18".')
    protocol = replace(protocol or Protocol(), **of_protocol)
    if finetune is True:
        finetune = FinetuneOptions(seeds=protocol.seeds)
    return compare_network(
        dataset,
        options=replace(options, **of_options) if options else ExtractionOptions(**of_options),
        protocol=protocol,
        controls=DEFAULT_CONTROLS if controls is None else controls,
        drop_leaks=drop_leaks,
        finetune=finetune or None,
        processes=processes or ALONE,
        n_jobs=n_jobs,
        scheduler=scheduler,
        progress=progress,
    )


def _refuse_unknown(settings: dict[str, Any]) -> None:
    """Refuse what is a setting neither of the extraction nor of the comparison."""
    known = {field.name for kind in (ExtractionOptions, Protocol) for field in fields(kind)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        allowed = sorted(known | set(inspect.signature(compare).parameters) - {"settings"})
        near = get_close_matches(unknown[0], allowed, 1, 0.7)
        did = f" Did you mean {near[0]}?" if near else ""
        raise TypeError(
            f"compare() has no setting {', '.join(unknown)}.{did} Allowed: {', '.join(allowed)}."
        )


def _refuse_network(dataset: str, given: Sequence[str], settings: dict[str, Any]) -> None:
    """Refuse what only a network can use."""
    allowed = sorted(field.name for field in fields(Protocol))
    refused = [*given, *sorted(settings.keys() - allowed - {"layers"})]
    if refused:
        raise TypeError(
            f"{dataset!r} holds codes: no network is run or trained, and {', '.join(refused)} "
            f"cannot be used. Allowed: layers, protocol, {', '.join(allowed)}, controls, "
            "drop_leaks, n_jobs, scheduler, progress."
        )
