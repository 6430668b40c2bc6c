"""Parameters: options that several commands share, each with its help, which is written once."""

from __future__ import annotations

import inspect
import re
from typing import Annotated

from cyclopts import Parameter

from pipelines.extraction.options import ExtractionOptions

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
Grid = Annotated[
    str,
    Parameter(
        name=["--Cs", "--cs"],
        help="Values of C to choose from: LOW:HIGH:COUNT, spaced evenly on a log scale, or joined "
        "by commas.",
    ),
]
Folds = Annotated[int, Parameter(help="Folds of every cross-validation.")]
Repeats = Annotated[
    int | None,
    Parameter(
        help="Repeats of the outer cross-validation (default: as many as test some 2,000 images, "
        "one to five), or, with a test split, draws of each smaller training size (default 5)."
    ),
]
ScoringName = Annotated[
    str | None,
    Parameter(
        help='"accuracy", "balanced_accuracy", "f1_macro", "average_precision", or, with '
        'classifier logistic, "neg_log_loss". Default: accuracy, or balanced accuracy where '
        "classes are unequal."
    ),
]
GroupDuplicates = Annotated[
    bool,
    Parameter(
        negative="--no-group-duplicates",
        help="Keep copies of an image, byte by byte, on the same side of every fold.",
    ),
]
DropLeaks = Annotated[
    bool,
    Parameter(
        help="Leave out test images that are copies of training images, and images with two labels."
    ),
]
MaxLoss = Annotated[
    float,
    Parameter(
        help="Most that the recommended depth may score below the chosen one, of whose score it is "
        "also within one standard error of the difference. With 0, no score is given up."
    ),
]
Jobs = Annotated[int, Parameter(help="Processes that train classifiers; -1 for one on each core.")]
