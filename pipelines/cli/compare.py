"""The commands ``cnn-codes compare``, ``demo`` and ``report``, which renders their page again."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import CycloptsError, Parameter

import pipelines
from codes.data.names import CODES_SCHEMES, refuse_unnamed_codes
from pipelines.cli.shared_options import (
    ANY_NETWORK,
    COMPARED_BY,
    TRAINED_BY,
    AnyNetwork,
    ComparedBy,
    DatasetOrCodes,
    DropLeaks,
    Jobs,
    Scheduler,
    TrainedBy,
    check_folder,
    count_jobs,
    like_field,
    of_each_backbone,
    only,
)
from pipelines.cli.streams.terminal import stdout, terminal
from pipelines.comparison.protocol import Protocol
from pipelines.extraction.options import ExtractionOptions
from pipelines.training.options import FinetuneOptions

if TYPE_CHECKING:
    from pipelines.studies.study import Study


_BACKBONE = Parameter(help=f"{like_field('backbone').help} Needed for images.")


def demo(
    *,
    out: Path = Path("cnn-codes-demo"),
    options: Annotated[AnyNetwork, only("store")] = ANY_NETWORK,
    jobs: Jobs = None,
) -> None:
    """Compare every depth of the bundled backbone on scikit-learn's digits; needs no network.

    Parameters
    ----------
    out
        Folder of the report.
    """
    bundled = replace(options, backbone="bundled", layers="all")
    protocol = Protocol(cv=3, train_sizes=(5, 10, 20, "all"))
    controls = ("majority", "pixels", "random")  # Those that take no time.
    n_jobs = count_jobs(jobs, command="demo")
    check_folder(out)
    study = pipelines.compare(
        "sklearn:digits", options=bundled, protocol=protocol, controls=controls, n_jobs=n_jobs,
        progress=terminal(),
    )  # fmt: skip
    _write(study, out)


def compare(
    dataset: DatasetOrCodes,
    /,
    options: Annotated[AnyNetwork, Parameter(name="*")] = ANY_NETWORK,
    protocol: ComparedBy = COMPARED_BY,
    training: TrainedBy = TRAINED_BY,
    *,
    finetune: bool = False,
    backbone: Annotated[list[str], _BACKBONE] = [],  # noqa: B006
    weights: Annotated[list[str], like_field("weights")] = [],  # noqa: B006
    out: Path = Path("cnn-codes-report"),
    drop_leaks: DropLeaks = False,
    controls: str | None = None,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
) -> None:
    """Compare the depths of a backbone on a dataset, and write a report.

    With --backbone more than once, each has a report in a folder of its own, and one page compares
    them. Codes of another tool need no backbone: npz:FILE, parquet:FILE or zarr:FOLDER.

    Parameters
    ----------
    finetune
        Train the network as well, from some start on, and compare what that gives.
    out
        Folder of the report.
    controls
        What the chosen depth is compared with, joined by commas: majority, shuffled (labels),
        pixels, random (weights), concatenated (all depths), pre (before the activation); or none.
        Default: all but pre; of given codes, those that need no network.
    """
    n_jobs = count_jobs(jobs, scheduler, command="compare")
    protocol = replace(protocol, random_state=options.random_state)
    if dataset.startswith(CODES_SCHEMES):
        _refuse_for_codes(dataset, options, training, finetune, backbone, weights)
        check_folder(out)
        given = pipelines.compare(
            dataset, layers=options.layers, protocol=protocol, controls=controls,
            drop_leaks=drop_leaks, n_jobs=n_jobs, scheduler=scheduler, progress=terminal(),
        )  # fmt: skip
        _write(given, out)
        return
    refuse_unnamed_codes(dataset)
    if not backbone:
        raise CycloptsError(
            msg='`compare` needs --backbone: a torchvision classifier, "bundled", or '
            "package.module:function.",
            command_chain=("compare",),
        )
    from pipelines.finetuning.prepare import work
    from pipelines.report.report import render_again
    from pipelines.training.processes import join_processes

    networks = of_each_backbone(options, backbone, weights)
    trained = replace(training, seeds=protocol.seeds) if finetune else False
    if not trained and training != TRAINED_BY:
        raise ValueError("Options of fine-tuning were given without --finetune. Add it.")
    names = [re.sub(r"[^\w.-]", "_", name) for name in backbone]
    several = len(networks) > 1
    folders = [out / f"{number}-{name}" if several else out for number, name in enumerate(names, 1)]
    with join_processes() as processes:
        if processes.rank > 0:
            work(processes)
            return
        for network, folder in zip(networks, folders, strict=True):
            if several:
                stdout().print(f"== {folder.name} ==")
            check_folder(folder)
            study = pipelines.compare(
                dataset, options=network, protocol=protocol, controls=controls,
                drop_leaks=drop_leaks, finetune=trained, processes=processes, n_jobs=n_jobs,
                scheduler=scheduler, progress=terminal(),
            )  # fmt: skip
            _write(study, folder)
    if not several:
        return
    page, standing = render_again(folders, out / "report.html")
    for line in (*(standing.sentences if standing else ()), f"Side by side: {page}"):
        stdout().print(line)


def report(*folders: Annotated[Path, Parameter(required=True)], out: Path | None = None) -> None:
    """Render a report's page again from its report.json; of several, one page side by side.

    Parameters
    ----------
    folders
        What `cnn-codes compare --out` wrote, one folder or more.
    out
        The page. Default: report.html in the one folder, or in the current one.
    """
    from pipelines.report.report import render_again

    if out is not None:
        check_folder(out.parent)
        if out.suffix != ".html":
            raise ValueError(f"--out {str(out)!r}: the page is HTML; name it with .html.")
    stdout().print(str(render_again(folders, out)[0]))


def _refuse_for_codes(
    dataset: str,
    options: ExtractionOptions,
    training: FinetuneOptions,
    finetune: bool,
    backbone: Sequence[str],
    weights: Sequence[str],
) -> None:
    """Refuse options of a network for codes that another tool made."""
    named = {"backbone": backbone, "weights": weights, "finetune": finetune}
    given = [name for name, value in named.items() if value]
    given += [
        field.name
        for field in fields(options)
        if field.name not in ("layers", "random_state")
        and getattr(options, field.name) != field.default
    ]
    names = [f"--{name.replace('_', '-')}" for name in given]
    names += ["the options of fine-tuning"] * (training != TRAINED_BY)
    if names:
        raise ValueError(
            f"{dataset!r} holds codes: no network is run or trained, and {', '.join(names)} cannot "
            "be used. Leave out what is named here; --layers chooses among the layers in the file."
        )


def _write(study: Study, out: Path) -> None:
    """Write a report, and print what it says."""
    from pipelines.cli.summary import print_summary
    from pipelines.report.report import make_report, write_report

    command = ["cnn-codes", *sys.argv[1:]]
    found = make_report(study, command=[shlex.quote(word) for word in command])
    write_report(out, found, study)
    print_summary(study, found, out)
