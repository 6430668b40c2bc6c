"""Files of fitted pipelines, of which reading one runs no code that is in it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import skops.io
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.comparison.evaluate import ESTIMATORS
from pipelines.drafts import replacing
from pipelines.extraction.options import FREE, ExtractionOptions
from pipelines.fitted.finetuned import softmax
from pipelines.fitted.pipeline import (
    DIGEST_LENGTH,
    METADATA,
    SUFFIX,
    FittedPipeline,
    read_digests,
)

FORMAT = 2
"""Of the file. The first did not have the images; it is read as if there were none."""
_TRUSTED = [f"{kind.__module__}.{kind.__qualname__}" for kind in ESTIMATORS.values()]


def save(fitted: FittedPipeline, file: Path) -> None:
    """Write a fitted pipeline: reading it back runs no code of the file's.

    With skops; a fine-tuned network as safetensors, with what else belongs to it as JSON in the
    metadata, so that its weights can be named where those of a backbone are.

    Parameters
    ----------
    fitted : FittedPipeline
    file : Path
        Replaced at once.
    """
    kept = {f.name: getattr(fitted, f.name) for f in fields(fitted) if f.name != "state"}
    kept["options"] = {k: v for k, v in asdict(fitted.options).items() if k not in FREE}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        if fitted.state is None:
            draft.write_bytes(skops.io.dumps({"format": FORMAT, **kept}))
            return
        head = fitted.classifier
        kept["classifier"] = {"coef": head.coef_.tolist(), "intercept": head.intercept_.tolist()}
        kept["digests"] = fitted.digests.tobytes().hex()
        metadata = json.dumps({"format": FORMAT, **kept}, allow_nan=False)
        save_file(fitted.state, draft, {METADATA: metadata})


def _load_finetuned(file: Path) -> FittedPipeline:
    """Read a fine-tuned network; its weights are read when it predicts."""
    with safe_open(file, "pt") as opened:
        metadata = (opened.metadata() or {}).get(METADATA)
    if metadata is None:
        raise ValueError("it holds weights, and nothing of what they are for")
    if file.suffix != SUFFIX:
        raise ValueError(f"it is a fine-tuned network, whose name must end in {SUFFIX}: rename it")
    kept = json.loads(metadata)
    if kept.pop("format") != FORMAT:
        raise ValueError(f"its format is another than {FORMAT}")
    head = kept["classifier"]
    weight, bias = np.array(head["coef"]), np.array(head["intercept"])
    kept["classifier"] = softmax(weight, bias, kept["card"]["classes"])
    kept["options"] = ExtractionOptions(**(kept["options"] | {"weights": str(file)}))
    kept["digests"] = read_digests(kept["digests"])
    return FittedPipeline(**kept)


def load(file: Path) -> FittedPipeline:
    """Read what `save` wrote.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a fitted pipeline, or would run code that is not ours.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(file)!r} does not exist. Give a file that `cnn-codes fit --out` wrote."
        )
    refused = f"{str(file)!r} is not a whole fitted pipeline of this version of cnn-codes"
    again = "Make one with `cnn-codes fit --out`."
    try:
        if not is_zipfile(file):
            return _load_finetuned(file)
        strange = sorted(set(skops.io.get_untrusted_types(file=file)) - set(_TRUSTED))
        if strange:
            raise ValueError(f"it holds {', '.join(strange)}, which is not read")
        kept = skops.io.load(file, trusted=_TRUSTED)
        found = kept.pop("format")
        if found not in (1, FORMAT):
            raise ValueError(f"its format is {found}; 1 and {FORMAT} are read")
        if found == 1:
            kept["digests"] = np.empty((0, DIGEST_LENGTH), np.uint8)
        kept["options"] = ExtractionOptions(**kept["options"])
        return FittedPipeline(**kept)
    except Exception as error:  # Whatever the file is made to raise.
        raise ValueError(f"{refused}: {error}. {again}") from error
