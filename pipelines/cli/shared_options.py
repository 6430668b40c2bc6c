"""Options that several commands share: their types, their help, and checks that run first.

The fields of `pipelines.extraction.options.ExtractionOptions` and of
`pipelines.comparison.protocol.Protocol` are such options; a field added there needs nothing here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from codes.wording import counted
from pipelines.cluster.connection import check_scheduler
from pipelines.comparison.protocol import Protocol
from pipelines.extraction.options import ExtractionOptions
from pipelines.linear.validation import DEFAULT_GRID, Search
from pipelines.training.options import WEIGHT_DECAY, FinetuneOptions

_DOCSTRING = inspect.getdoc(ExtractionOptions) or ""
_HELP = dict(re.findall(r"^(\w+) : .*\n((?: +.*\n?)+)", _DOCSTRING, re.MULTILINE))


def like_field(name: str) -> Parameter:
    """Give an option the help of a field of `pipelines.extraction.options.ExtractionOptions`.

    Examples
    --------
    >>> like_field("dtype").help
    'What codes are stored as: "float16" or "float32".'
    """
    return Parameter(help=" ".join(_HELP[name].split()))


def only(*names: str) -> Parameter:
    """Make options of some fields of ``options``; the others keep their defaults."""
    return Parameter(name="*", parse=re.compile(rf"^({'|'.join(('options', *names))})$"))


Dataset = Annotated[
    str,
    Parameter(
        help="A folder of class folders, a folder with train/ and test/ in it, a .zip or .tar of "
        "either, a CSV file with the columns path,label (and split,group), torchvision:NAME, "
        "hf:NAME, wds:PATTERN (WebDataset shards), or sklearn:digits."
    ),
]
DatasetOrCodes = Annotated[
    str,
    Parameter(
        help=f"{Dataset.__metadata__[0].help} Or codes of another tool: npz:FILE, parquet:FILE or "
        "zarr:FOLDER."
    ),
]
Images = Annotated[
    str,
    Parameter(
        required=True,
        help="Image files, folders or archives of them, a CSV file with the column path, or "
        "another dataset that compare takes.",
    ),
]
DropLeaks = Annotated[
    bool,
    Parameter(
        help="Leave out test images that are copies of training images, and images with two labels."
    ),
]
Jobs = Annotated[
    int | None,
    Parameter(help="Processes that train classifiers; -1, the default, for one on each core."),
]
Scheduler = Annotated[
    str | None,
    Parameter(
        help="Address of a Dask scheduler, tcp://HOST:PORT, whose workers train classifiers in the "
        "place of processes of this machine. They read codes from the store."
    ),
]


@dataclass(frozen=True, kw_only=True)
class _ComparedBy(Protocol):
    # Typed as one word each; a seed is one of the extraction's options.
    classifier: str = "svm"
    Cs: Annotated[str, Parameter(name=["--Cs", "--cs"])] = DEFAULT_GRID
    Cs_search: Annotated[Search, Parameter(name=["--Cs-search", "--cs-search"])] = "path"
    train_sizes: str = "all"
    group_duplicates: Annotated[bool, Parameter(negative="--no-group-duplicates")] = True
    random_state: Annotated[int, Parameter(parse=False)] = 0


@dataclass(frozen=True, kw_only=True)
class _FittedBy(_ComparedBy):
    classifier: str = "logistic"
    train_sizes: Annotated[str, Parameter(parse=False)] = "all"


COMPARED_BY, FITTED_BY = _ComparedBy(), _FittedBy()


@dataclass(frozen=True, kw_only=True)
class AnyNetwork(ExtractionOptions):
    """Options without a network: it is chosen otherwise, or there are several."""

    backbone: Annotated[str, Parameter(parse=False)] = ""
    weights: Annotated[str | None, Parameter(parse=False)] = None


@dataclass(frozen=True, kw_only=True)
class _TrainedBy(FinetuneOptions):
    starts: Annotated[str, Parameter(name="--from")] = "auto"
    lr: str | None = None
    weight_decay: str = WEIGHT_DECAY
    nesterov: Annotated[bool, Parameter(negative="--no-nesterov")] = True
    # Extraction has one of its own, which changes no result.
    batch_size: Annotated[int, Parameter(name="--train-batch-size")] = 64
    # The protocol has one, for all that is repeated.
    seeds: Annotated[int, Parameter(parse=False)] = 1


TRAINED_BY = _TrainedBy()
TrainedBy = Annotated[_TrainedBy, Parameter(name="*", group="Fine-tuning")]
"""Each field of the options of fine-tuning an option of ``compare``."""

Options = Annotated[ExtractionOptions, Parameter(name="*")]
"""Each field an option of a command."""
ANY_NETWORK = AnyNetwork()
ComparedBy = Annotated[_ComparedBy, Parameter(name="*")]
"""Each field of the protocol an option of ``compare``."""
FittedBy = Annotated[_FittedBy, Parameter(name="*")]
"""And of ``fit``, which gives probabilities by default, and fits on all images."""


def convert(kind: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read words as what an option takes; unlike cyclopts, round no fraction to a whole number."""
    if kind in (int, int | None):
        try:
            return int(tokens[0].value)
        except ValueError:
            raise ValueError(f"{tokens[0].value!r} is not a whole number.") from None
    return cyclopts.convert(kind, tokens)


def check_folder(out: Path) -> None:
    """Raise an error now if a folder cannot be written to when all is computed."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {str(out)!r}: {str(there)!r} is not a folder that can be written to. Choose "
            "another."
        ) from error


def check_file(out: Path) -> None:
    """Raise an error now if a file cannot be written when all is computed."""
    check_folder(out.parent)
    if out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a folder; name a file in it.")


def count_jobs(jobs: int | None, scheduler: str | None = None, *, command: str) -> int:
    """Count the processes of this machine that train, as joblib does; with a cluster, 1.

    Raises
    ------
    CycloptsError
        If both are given.
    ValueError
        If there would be no process at all, or the scheduler has no address.
    """
    if scheduler is not None and jobs is not None:
        raise cyclopts.CycloptsError(
            msg="--jobs counts processes of this machine, and --scheduler trains on a cluster, "
            "which has its own number of workers. Leave one out.",
            command_chain=(command,),
        )
    if scheduler is not None:
        check_scheduler(scheduler)
        return 1
    if jobs == 0:
        raise ValueError("--jobs 0: allowed are 1 or more, or -1 for one on each core.")
    return -1 if jobs is None else jobs


def of_each_backbone(
    options: ExtractionOptions, backbones: Sequence[str], weights: Sequence[str]
) -> list[ExtractionOptions]:
    """Give each backbone its options, with as many weights or none.

    Examples
    --------
    >>> common = ExtractionOptions(backbone="")
    >>> found = of_each_backbone(common, ["alexnet", "vgg16"], ["default", "vgg.pth"])
    >>> [(one.backbone, one.weights) for one in found]
    [('alexnet', 'default'), ('vgg16', 'vgg.pth')]
    """
    if weights and len(weights) != len(backbones):
        raise ValueError(
            f"{counted(len(backbones), 'backbone')} and {len(weights)} --weights were given. Give "
            "as many, in the same order, where the word default stands for a backbone's own "
            "weights; or give no --weights."
        )
    own: Sequence[str | None] = weights or [None] * len(backbones)
    pairs = zip(backbones, own, strict=True)
    return [replace(options, backbone=backbone, weights=weight) for backbone, weight in pairs]
