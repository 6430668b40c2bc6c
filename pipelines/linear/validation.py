"""What a classifier is given, checked: codes, values of C, folds.

Each error says what was got, what is allowed and what to do.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedKFold, check_cv

from pipelines.linear.mapped import MappedCodes
from pipelines.linear.scaling import row_blocks

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
Split = tuple[Index, Index]

Search = Literal["path", "full"]
SEARCHES = get_args(Search)
"""How C is searched: outwards as far as needed, or everywhere."""

DEFAULT_GRID = "1e-6:1e2:9"
"""Values of C, as `parse_grid` reads them."""

# Of values in size, of Cs and of weights: what is formed of them stays within float64.
LARGEST = 1e75


def read_codes(X: Any) -> Any:
    """Read an array stored in chunks (Zarr) into memory; leave anything else as it is."""
    if np.ma.isMaskedArray(X) and np.ma.is_masked(X):
        raise ValueError("X is a masked array with values masked out. Leave their rows out.")
    if hasattr(X, "chunks") and hasattr(X, "shape") and not isinstance(X, np.ndarray):
        return np.asarray(X[:])
    return X


def check_finite(X: Array | MappedCodes) -> None:
    """Refuse NaN and infinity, naming the first, and values whose squares overflow or vanish.

    No mask of the size of ``X`` is made.
    """
    largest = 0.0
    for rows in row_blocks(len(X), X.shape[1]):
        block = X[rows]
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            name = "NaN" if np.isnan(block[row, column]) else "infinity"
            raise ValueError(
                f"Input X contains {name}, first at row {rows.start + row}, column {column}; NaN "
                "and infinity are not allowed. Extract these codes again, or leave the row out."
            )
        largest = max(largest, float(np.abs(block).max()))
    if largest > LARGEST or 0.0 < largest < 1.0 / LARGEST:
        raise ValueError(
            f"The largest value of X is {largest:.3g} in size; allowed are {1 / LARGEST:.0e} to "
            f"{LARGEST:.0e}, as inner products are not finite, or zero, beyond. Multiply X by a "
            "constant first."
        )


def check_grid(Cs: ArrayLike) -> Array:
    """Return ``Cs`` as an array of positive finite numbers."""
    try:
        numbers_only = not any(isinstance(C, (str, bytes, bool)) for C in np.ravel(Cs).tolist())
        values = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    except (TypeError, ValueError):
        numbers_only, values = False, np.empty(0)
    allowed = (values >= 1.0 / LARGEST) & (values <= LARGEST)
    if not numbers_only or values.ndim != 1 or values.size == 0 or not allowed.all():
        raise ValueError(
            f"Cs={Cs!r} is not a list of positive finite numbers, each from {1 / LARGEST:.0e} to "
            f"{LARGEST:.0e}. Use for example numpy.logspace(-6, 2, 9)."
        )
    return values


def check_options(scale: object, tol: float, max_iter: int) -> None:
    """Refuse options that are not valid for the solver."""
    if scale is not None and scale not in ("standard", "l2"):
        raise ValueError(f"scale={scale!r} is not known. Use 'standard', 'l2' or None.")
    if not (isinstance(tol, numbers.Real) and 0 < tol < 1):
        raise ValueError(f"tol={tol!r} is not a number between 0 and 1. Use for example 1e-5.")
    if not (isinstance(max_iter, numbers.Integral) and max_iter > 0):
        raise ValueError(f"max_iter={max_iter!r} is not a positive integer. Use for example 100.")


def check_search(search: object) -> None:
    """Refuse what is not a way to search for C."""
    if search not in SEARCHES:
        raise ValueError(f"search={search!r} is not known. Use {' or '.join(map(repr, SEARCHES))}.")


def number_groups(groups: ArrayLike | None, n_samples: int) -> Index:
    """Give each row the number of its group; without groups each row is its own."""
    if groups is None:
        return np.arange(n_samples)
    names = np.asarray(groups)
    if names.shape != (n_samples,):
        raise ValueError(
            f"groups is of shape {names.shape}; allowed is one group for each of the {n_samples} "
            "rows of X."
        )
    return np.unique(names, return_inverse=True)[1]


def check_class_weight(class_weight: Any) -> None:
    """Refuse class weights that are not positive and finite."""
    if class_weight is None or (isinstance(class_weight, str) and class_weight == "balanced"):
        return
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"class_weight={class_weight!r} is not known. Use 'balanced', None or a dictionary of "
            "label to weight."
        )
    for label, weight in class_weight.items():
        if not (isinstance(weight, numbers.Real) and 1.0 / LARGEST <= float(weight) <= LARGEST):
            raise ValueError(
                f"class_weight gives class {label!r} the weight {weight!r}; weights are positive "
                "and finite. To train without a class, leave its samples out."
            )


def check_scoring_name(scoring: Any) -> None:
    """Refuse what is not a score of labels and decisions only."""
    made = type(scoring).__module__.startswith("sklearn.metrics") and callable(scoring)
    if scoring is not None and not isinstance(scoring, str) and not made:
        raise ValueError(
            f"scoring={scoring!r} is neither a name, such as 'balanced_accuracy', nor a scorer of "
            "sklearn.metrics.make_scorer. Other functions would want the held-out codes, which "
            "are never made here: use GridSearchCV for those."
        )


def make_splits(
    cv: Any,
    labels: Index,
    classes: NDArray[Any],
    random_state: int | np.random.RandomState | None,
    groups: ArrayLike | None = None,
) -> list[Split]:
    """Turn ``cv`` into pairs of indices, each of which trains on every class.

    Parameters
    ----------
    cv : int, splitter, iterable of (train, test) or None
    labels : ndarray of shape (n_samples,)
        Indices of ``classes``.
    classes : ndarray of shape (n_classes,)
    random_state : int, RandomState or None
        Shuffles the folds that an int makes.
    groups : array-like of shape (n_samples,), optional
        For a splitter that keeps groups together.
    """
    names = classes.tolist()
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.min())
    if cv is None:
        cv = max(2, min(5, rarest))
    if isinstance(cv, numbers.Integral):
        if isinstance(cv, bool) or cv < 2:
            raise ValueError(f"cv={cv!r}: allowed are 2 folds or more, a splitter or a list.")
        if rarest < int(cv):
            raise ValueError(
                f"cv={cv} folds need {cv} samples of each class, class "
                f"{names[counts.argmin()]!r} has {rarest}. Use fewer folds, add samples, or "
                "leave the class out."
            )
        cv, groups = StratifiedKFold(int(cv), shuffle=True, random_state=random_state), None
    splits = []
    rows = np.arange(len(labels))
    try:
        folds = list(check_cv(cv, labels, classifier=True).split(rows, labels, groups))
        # Indexing turns masks into indices and refuses rows that do not exist.
        pairs = [(rows[train], rows[test]) for train, test in folds]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"cv={str(cv)[:80]} gives no folds of these {len(rows)} samples: {error} Use a number, "
            "a splitter, or a list of (train, test) indices; with groups, "
            "list(GroupKFold(5).split(X, y, groups)), or give them to fit."
        ) from error
    if not pairs:
        raise ValueError(
            f"cv={str(cv)[:80]} gives no fold. A generator can be used once: make it a list."
        )
    for i, (train, test) in enumerate(pairs):
        if not test.size:
            raise ValueError(f"Fold {i} has no sample to test on. Give each fold at least one.")
        missing = np.setdiff1d(np.arange(len(classes)), labels[train])
        if missing.size:
            raise ValueError(
                f"The training part of fold {i} has no sample of class "
                f"{names[missing[0]]!r}. Each fold must train on every class: use fewer folds, "
                "stratified ones, or add samples."
            )
        splits.append((train, test))
    return splits


def parse_grid(text: str) -> tuple[float, ...]:
    """Read values of C: LOW:HIGH:COUNT, spaced evenly on a log scale, or joined by commas.

    Powers of ten are exact, as they are when typed.

    Examples
    --------
    >>> parse_grid("1e-2:1:3")
    (0.01, 0.1, 1.0)
    >>> parse_grid("0.5,2")
    (0.5, 2.0)
    """
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        low, high, count = text.split(":")
        start, stop, n = float(low), float(high), int(count)
        if not (0 < start < stop and n >= 2):
            raise ValueError
        first, step = math.log10(start), math.log10(stop / start) / (n - 1)
        return tuple(_power_of_ten(first + i * step) for i in range(n))
    except ValueError:
        raise ValueError(
            f"Cs={text!r} is not a grid. Allowed: LOW:HIGH:COUNT, such as 1e-6:1e2:9, or values "
            "joined by commas, each positive and larger than the last."
        ) from None


def _power_of_ten(exponent: float) -> float:
    whole = round(exponent)
    return float(f"1e{whole}") if abs(exponent - whole) < 1e-9 else 10.0**exponent
