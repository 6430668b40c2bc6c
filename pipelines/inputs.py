"""What a classifier is given, checked: codes, values of C, folds.

Each error says what was got, what is allowed and what to do.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedKFold, check_cv

from pipelines.scaling import BLOCK_SIZE

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
Split = tuple[Index, Index]


def read_codes(X: Any) -> Any:
    """Read an array stored in chunks (Zarr) into memory; leave anything else as it is."""
    if hasattr(X, "chunks") and hasattr(X, "shape") and not isinstance(X, np.ndarray):
        return np.asarray(X[:])
    return X


def check_finite(X: Array) -> None:
    """Refuse NaN and infinity, naming the first; no mask of the size of ``X`` is made."""
    step = max(1, BLOCK_SIZE // X.shape[1])
    for start in range(0, len(X), step):
        bad = ~np.isfinite(X[start : start + step])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            name = "NaN" if np.isnan(X[start + row, column]) else "infinity"
            raise ValueError(
                f"Input X contains {name}, first at row {start + row}, column {column}; NaN and "
                "infinity are not allowed. Extract these codes again, or leave the row out."
            )


def check_grid(Cs: ArrayLike) -> Array:
    """Return ``Cs`` as an array of positive finite numbers."""
    values = np.atleast_1d(np.asarray(Cs, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"Cs={Cs!r} is not a list of positive finite numbers. Use for example "
            "numpy.logspace(-6, 2, 9)."
        )
    return values


def check_options(scale: object, tol: float, max_iter: int) -> None:
    """Refuse what the solver has no meaning for."""
    if scale is not None and scale not in ("standard", "l2"):
        raise ValueError(f"scale={scale!r} is not known. Use 'standard', 'l2' or None.")
    if not tol > 0:
        raise ValueError(f"tol={tol!r} is not positive. Use for example 1e-5.")
    if not (isinstance(max_iter, numbers.Integral) and max_iter > 0):
        raise ValueError(f"max_iter={max_iter!r} is not a positive integer. Use for example 100.")


def make_splits(
    cv: Any,
    labels: Index,
    classes: NDArray[Any],
    random_state: int | np.random.RandomState | None,
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
    """
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.min())
    if cv is None:
        cv = max(2, min(5, rarest))
    if isinstance(cv, numbers.Integral):
        if rarest < int(cv):
            raise ValueError(
                f"cv={cv} folds need {cv} samples of each class, class "
                f"{classes[counts.argmin()]!r} has {rarest}. Use fewer folds, add samples, or "
                "leave the class out."
            )
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=random_state)
    splits = []
    rows = np.arange(len(labels))
    for i, (train, test) in enumerate(check_cv(cv, labels, classifier=True).split(rows, labels)):
        # Indexing turns masks into indices and refuses rows that do not exist.
        train, test = rows[train], rows[test]
        if not test.size:
            raise ValueError(f"Fold {i} has no sample to test on. Give each fold at least one.")
        missing = np.setdiff1d(np.arange(len(classes)), labels[train])
        if missing.size:
            raise ValueError(
                f"The training part of fold {i} has no sample of class "
                f"{classes[missing[0]]!r}. Each fold must train on every class: use fewer folds, "
                "stratified ones, or add samples."
            )
        splits.append((train, test))
    return splits
