"""Parameters: options that several commands share, each with its help, which is written once."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from pipelines.comparison.protocol import Protocol
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.options import LR, WEIGHT_DECAY, FinetuneOptions
from pipelines.linear.validation import DEFAULT_GRID

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


Dataset = Annotated[
    str,
    Parameter(
        help="A folder of class folders, a folder with train/ and test/ in it, a .zip or .tar of "
        "either, a CSV file with the columns path,label (and split,group), torchvision:NAME, "
        "hf:NAME, wds:PATTERN (WebDataset shards), or sklearn:digits."
    ),
]
DropLeaks = Annotated[
    bool,
    Parameter(
        help="Leave out test images that are copies of training images, and images with two labels."
    ),
]
Jobs = Annotated[int, Parameter(help="Processes that train classifiers; -1 for one on each core.")]


@dataclass(frozen=True, kw_only=True)
class _ComparedBy(Protocol):
    # Typed as one word each; a seed is one of the extraction's options.
    classifier: str = "svm"
    Cs: Annotated[str, Parameter(name=["--Cs", "--cs"])] = DEFAULT_GRID
    train_sizes: str = "all"
    group_duplicates: Annotated[bool, Parameter(negative="--no-group-duplicates")] = True
    random_state: Annotated[int, Parameter(parse=False)] = 0


@dataclass(frozen=True, kw_only=True)
class _FittedBy(_ComparedBy):
    classifier: str = "logistic"
    train_sizes: Annotated[str, Parameter(parse=False)] = "all"


COMPARED_BY, FITTED_BY = _ComparedBy(), _FittedBy()


@dataclass(frozen=True, kw_only=True)
class _OfEach(ExtractionOptions):
    # Several networks: each has its own.
    backbone: Annotated[str, Parameter(parse=False)] = ""
    weights: Annotated[str | None, Parameter(parse=False)] = None


@dataclass(frozen=True, kw_only=True)
class _TrainedBy(FinetuneOptions):
    starts: Annotated[str, Parameter(name="--from")] = "auto"
    lr: str = LR
    weight_decay: str = WEIGHT_DECAY


TRAINED_BY = _TrainedBy()
TrainedBy = Annotated[_TrainedBy, Parameter(name="*")]
"""Each field of the options of fine-tuning an option of ``compare``."""

Options = Annotated[ExtractionOptions, Parameter(name="*")]
"""Each field an option of a command."""
OfEach = Annotated[_OfEach, Parameter(name="*")]
"""Each field but the network and its weights an option of ``compare``, which takes several."""
OF_EACH = _OfEach()
ComparedBy = Annotated[_ComparedBy, Parameter(name="*")]
"""Each field of the protocol an option of ``compare``."""
FittedBy = Annotated[_FittedBy, Parameter(name="*")]
"""And of ``fit``, which gives probabilities unless told otherwise, and fits on all images."""
