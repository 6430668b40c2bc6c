"""The commands ``cnn-codes compare``, ``demo`` and ``report``, which renders their page again."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pipelines.cli.shared_options import (
    ANY_NETWORK,
    COMPARED_BY,
    TRAINED_BY,
    AnyNetwork,
    ComparedBy,
    Dataset,
    DropLeaks,
    Jobs,
    TrainedBy,
    check_folder,
    check_jobs,
    like_field,
    of_each_backbone,
    only,
)
from pipelines.cli.terminal import stdout, terminal
from pipelines.comparison.protocol import Protocol
from pipelines.controls.controls import DEFAULT_CONTROLS
from pipelines.extraction.options import ExtractionOptions
from pipelines.training.options import FinetuneOptions

if TYPE_CHECKING:
    from pipelines.training.processes import Processes


def demo(
    *,
    out: Path = Path("cnn-codes-demo"),
    options: Annotated[AnyNetwork, only("store")] = ANY_NETWORK,
    jobs: Jobs = -1,
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
    _report("sklearn:digits", bundled, protocol, out, jobs, controls)


def compare(
    dataset: Dataset,
    /,
    options: Annotated[AnyNetwork, Parameter(name="*")] = ANY_NETWORK,
    protocol: ComparedBy = COMPARED_BY,
    training: TrainedBy = TRAINED_BY,
    *,
    finetune: bool = False,
    backbone: Annotated[list[str], like_field("backbone")],
    weights: Annotated[list[str], like_field("weights")] = [],  # noqa: B006
    out: Path = Path("cnn-codes-report"),
    drop_leaks: DropLeaks = False,
    controls: str = ",".join(DEFAULT_CONTROLS),
    jobs: Jobs = -1,
) -> None:
    """Compare the depths of a backbone on a dataset, and write a report.

    With --backbone more than once, each has a report in a folder of its own, and one page compares
    them.

    Parameters
    ----------
    finetune
        Train the network as well, from some start on, and compare what that gives.
    out
        Folder of the report.
    controls
        What the chosen depth is compared with, joined by commas: majority, shuffled (labels),
        pixels, random (weights), concatenated (all depths), pre (before the activation); or none.
    """
    from pipelines.finetuning.prepare import work
    from pipelines.report.report import render_again
    from pipelines.training.processes import join_processes

    protocol = replace(protocol, random_state=options.random_state)
    networks = of_each_backbone(options, backbone, weights)
    trained = training if finetune else False
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
            _report(
                dataset, network, protocol, folder, jobs, controls, drop_leaks, trained, processes
            )
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


def _report(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    out: Path,
    jobs: int,
    controls: str | Sequence[str],
    drop_leaks: bool = False,
    finetune: FinetuneOptions | bool = False,
    processes: Processes | None = None,
) -> None:
    from pipelines.cli.summary import print_summary
    from pipelines.report.report import make_report, write_report
    from pipelines.study import compare

    check_folder(out)
    check_jobs(jobs)
    study = compare(
        dataset,
        options=options,
        protocol=protocol,
        controls=controls,
        drop_leaks=drop_leaks,
        finetune=finetune,
        processes=processes,
        n_jobs=jobs,
        progress=terminal(),
    )
    command = ["cnn-codes", *sys.argv[1:]]
    found = make_report(study, command=[shlex.quote(word) for word in command])
    write_report(out, found, study)
    print_summary(study, found, out)
