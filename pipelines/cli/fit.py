"""The commands ``cnn-codes fit`` and ``predict``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from codes.wording import counted
from pipelines.cli.shared_options import (
    ANY_NETWORK,
    FITTED_BY,
    TRAINED_BY,
    AnyNetwork,
    Dataset,
    DropLeaks,
    FittedBy,
    Images,
    Jobs,
    Options,
    Scheduler,
    TrainedBy,
    check_file,
    count_jobs,
    only,
)
from pipelines.cli.streams.output import results
from pipelines.cli.streams.terminal import stdout, terminal
from pipelines.comparison.protocol import FINETUNE, finetuned_name
from pipelines.extraction.options import FREE
from pipelines.statistics.scoring import SCORINGS


def fit(
    dataset: Dataset,
    /,
    options: Options,
    protocol: FittedBy = FITTED_BY,
    training: TrainedBy = TRAINED_BY,
    *,
    out: Path,
    finetune: bool = False,
    drop_leaks: DropLeaks = False,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
) -> None:
    """Fit the depth that compare recommends on all images, and save it for predict.

    A test split measures what can be expected; then it trains too.

    Parameters
    ----------
    out
        The file, such as cells.skops, or cells.safetensors for a fine-tuned network.
    finetune
        Compare fine-tuning too, and train the network where that is recommended. With --from, train
        it from there in any case.
    """
    from pipelines.finetuning.prepare import work
    from pipelines.fitted.files import save
    from pipelines.studies.network_comparison import compare_network
    from pipelines.training.processes import join_processes

    n_jobs = count_jobs(jobs, scheduler, command="fit")
    check_file(out)
    protocol = replace(protocol, random_state=options.random_state)
    named = training.starts != TRAINED_BY.starts
    # It compares no more than it has to: what is repeated is the training that it saves.
    training = replace(training, seeds=protocol.seeds)
    protocol = replace(protocol, seeds=1)
    if training != TRAINED_BY and not (finetune or named):
        raise ValueError("Options of fine-tuning were given without --finetune. Add it.")
    if (finetune or named) and out.suffix != ".safetensors":
        raise ValueError(
            f"--out {str(out)!r}: a fine-tuned network is written as .safetensors, which --weights "
            "takes too. Name it so."
        )
    with join_processes() as processes:
        if processes.rank > 0:
            work(processes)
            return
        study = compare_network(
            dataset,
            options=options,
            protocol=protocol,
            controls=(),
            drop_leaks=drop_leaks,
            finetune=training if finetune or named else None,
            processes=processes,
            n_jobs=n_jobs,
            scheduler=scheduler,
            progress=terminal(),
        )
        start = None
        if named:  # Of several, the one with the best validation score.
            rows = [row for row in study.comparison.layers if row.classifier == FINETUNE]
            if not rows:
                raise ValueError(f"{'. '.join(study.notes)}.")
            start = max(rows, key=lambda row: row.cv_score).layer
        fitted = study.fit(start)
    save(fitted, out)
    card = fitted.card
    score, low, high = card["expected"]
    stdout().print(
        f"{_described(card)}, fitted on "
        f"{counted(card['n_images'], 'image')} of {counted(len(card['classes']), 'class')}. "
        f"Expect {SCORINGS[card['scoring']].title} {score:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f})."
    )
    if card["chosen"] != card["layer"] and card["classifier"] != FINETUNE:
        stdout().print(
            f"It is recommended as it is cheaper to compute than {card['chosen']}, which has the "
            "best cross-validation score and cannot be distinguished from it; to fit that, add "
            f"--layers {card['chosen']}."
        )
    for note in card["notes"]:
        terminal().info(f"Warning: {note}")
    stdout().print(str(out))


def _described(card: dict[str, Any]) -> str:
    """Say what was fitted, and how."""
    if card["classifier"] == FINETUNE:
        setting = card["setting"]
        return (
            f"{finetuned_name(card['layer'])}, learning rate {setting['lr']:.2g}, weight decay "
            f"{setting['weight_decay']:.2g}, {setting['epochs']} epochs"
        )
    return f"{card['layer']}, {card['classifier']}, C={card['C']:.2g}"


def predict(
    file: Path,
    /,
    *images: Images,
    weights: str | None = None,
    out: Path | None = None,
    options: Annotated[AnyNetwork, only(*FREE)] = ANY_NETWORK,
) -> None:
    """Predict the classes of images with what fit saved: a CSV of path, label, score.

    The score is the label's probability (logistic) or decision value (svm); a column for each
    class follows. Where images have labels that are classes of the pipeline, from class folders or
    a CSV file, their predictions are scored, on standard error.

    Parameters
    ----------
    file
        What `cnn-codes fit --out` wrote.
    weights
        Where the backbone's weights are now. Default: where they were. Others are refused.
    out
        The CSV file. Default: the standard output.
    """
    from codes.data.readers.to_predict import list_to_predict
    from pipelines.cli.predictions import print_evaluated, say_unscored, write_predictions
    from pipelines.diagnostics.intensity_by_class import check_new
    from pipelines.extraction.left_out import say_ignored
    from pipelines.fitted.files import load

    if out is not None:
        check_file(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    fitted = load(file)
    own = {name: getattr(options, name) for name in FREE}
    if weights is not None:
        own["weights"] = weights
    as_fitted = replace(fitted.options, **own)
    found = list_to_predict(images, page=as_fitted.page)
    say_ignored(found, terminal())
    say_unscored(found, fitted.card["classes"])
    extraction, labels, scores = fitted.predict(found, as_fitted, progress=terminal())
    with (
        nullcontext(results())
        if out is None
        else out.open("w", newline="", encoding="utf-8") as target
    ):
        write_predictions(target, extraction, labels, scores, fitted.card["classes"])
    unlike = check_new(extraction.images, extraction.backbone.preprocessing.intensity)
    if unlike:
        terminal().info(f"Warning: {unlike}")
    print_evaluated(fitted, extraction)
