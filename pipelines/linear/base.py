"""What the linear classifiers share: C is chosen by cross-validation, and all rows are fitted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipelines.linear.folds import SUMS, Fold, HeldOutScore, score_all
from pipelines.linear.mapped import MappedCodes
from pipelines.linear.path import Codes, Settings, decide, judge, one_thread, refit
from pipelines.linear.scaling import Scale, row_blocks, row_lengths
from pipelines.linear.search import ValueScore, search_outwards
from pipelines.linear.validation import (
    DEFAULT_GRID,
    Index,
    Search,
    Split,
    check_class_weight,
    check_finite,
    check_grid,
    check_options,
    check_scoring_name,
    check_search,
    make_splits,
    number_groups,
    parse_grid,
    read_codes,
)

Array = NDArray[np.floating[Any]]

DEFAULT_CS = parse_grid(DEFAULT_GRID)
_FLOATS = [np.float64, np.float32, np.float16]
# Bytes up to which the reduced problems of all folds are held together. Larger ones are held one
# after the other, each for all of Cs: to make them again for each C can take longer than that.
KEPT_SIZE = 2**30


@dataclass(eq=False, repr=False)
class LinearCV(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Everything but the loss; as a dataclass, each class has an ``__init__`` that errors name."""

    _kind: ClassVar[Literal["squared_hinge", "softmax"]]

    Cs: ArrayLike = DEFAULT_CS
    _: KW_ONLY
    cv: Any = None
    scale: Scale = "standard"
    class_weight: dict[Any, float] | Literal["balanced"] | None = None
    scoring: Any = None
    tol: float = 1e-5
    max_iter: int = 100
    random_state: int | np.random.RandomState | None = None
    n_jobs: int | None = None
    search: Search = "path"

    def fit(
        self, X: ArrayLike | MappedCodes, y: ArrayLike, groups: ArrayLike | None = None
    ) -> Self:
        """Choose C by cross-validation and fit all rows with it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Codes: a NumPy array or memory map (float16, float32 and float64 are used as they
            are), or a Zarr array, which is read into memory once.
        y : array-like of shape (n_samples,)
            Labels: integers or strings.
        groups : array-like of shape (n_samples,), optional
            Rows of a group are not independent, as views of an image or images of a patient are
            not: the standard errors of the search count them as one, and a splitter is given them.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        TypeError
            Sparse ``X``.
        ValueError
            NaN or infinity in ``X`` or in a score, fewer than two classes, a class with fewer
            members than folds, a value of ``Cs`` that is not positive, an unknown ``scale`` or
            ``search``, another number of ``groups`` than of rows.
        """
        self.Cs_ = check_grid(self.Cs)
        check_search(self.search)
        check_options(self.scale, self.tol, self.max_iter)
        check_class_weight(self.class_weight)
        check_scoring_name(self.scoring)
        if isinstance(X, MappedCodes):
            codes, y = validate_data(self, X, y, skip_check_array=True)
        else:
            codes, y = validate_data(self, read_codes(X), y, dtype=_FLOATS, ensure_all_finite=False)
        check_finite(codes)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only, {self.classes_.tolist()[0]!r}; a classifier needs at "
                "least 2 classes. Add samples of another class."
            )
        settings = Settings(
            kind=self._kind,
            classes=self.classes_,
            scale=self.scale,
            class_weight=self.class_weight,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        units = number_groups(groups, len(codes))
        splits = make_splits(self.cv, labels, self.classes_, self.random_state, groups)
        worst = self._score(codes, labels, splits, units, settings)
        self.C_ = _choose(self.Cs_, self.scores_)
        self.C_at_edge_ = _edge(self.Cs_, self.scores_, self.C_)
        self.coef_, self.intercept_, last, self.n_iter_ = refit(codes, labels, self.C_, settings)
        self.certificate_ = max(worst, last)
        if not (np.isfinite(self.coef_).all() and np.isfinite(self.certificate_)):
            raise ValueError(
                "The weights are not finite: the values of X, Cs and class_weight are too far "
                f"apart (largest C: {self.Cs_.max():.3g}). Use smaller Cs, or scale='standard'."
            )
        if self.certificate_ > self.tol:
            warnings.warn(
                f"{type(self).__name__} did not converge: the weights are within "
                f"{self.certificate_:.1e} of the optimum, relative to their length, and "
                f"tol={self.tol:.1e}. Raise max_iter={self.max_iter} or tol, leave out the largest "
                "Cs, or use scale='standard'.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _score(
        self, codes: Codes, labels: Index, splits: Sequence[Split], units: Index, settings: Settings
    ) -> float:
        """Set ``scores_`` and return the worst certificate."""
        # scikit-learn takes longer to score the accuracy of a small fold than its fit takes.
        scorer = None
        if self.scoring not in (None, "accuracy"):
            scorer = check_scoring(judge(settings), self.scoring)
        folds = [
            Fold(codes, labels, train, test, settings, self.scoring, scorer)
            for train, test in splits
        ]
        order = np.argsort(self.Cs_, kind="stable")
        together = sum(fold.size for fold in folds) <= KEPT_SIZE
        if self.search == "path" and self.scoring in (None, *SUMS) and together:
            found = self._outwards(self.Cs_[order], folds, units)
        else:
            found = self._everywhere(self.Cs_[order], folds)
        self.scores_ = np.full((len(order), len(folds)), np.nan)
        for index, of_folds in found.items():
            self.scores_[order[index]] = [one.score for one in of_folds]
        if not np.isfinite(self.scores_[order[list(found)]]).all():
            raise ValueError(
                f"scoring={self.scoring!r} gave NaN or infinity on a fold, so no C can be "
                "chosen. Use a score that every fold defines, or larger folds."
            )
        return float(np.max([[one.certificate for one in row] for row in found.values()]))

    def _everywhere(self, Cs: Array, folds: Sequence[Fold]) -> dict[int, list[HeldOutScore]]:
        """Score each fold at each of these, increasing; a fold is one task."""
        found = Parallel(n_jobs=self.n_jobs)(delayed(score_all)(fold, Cs) for fold in folds)
        return dict(enumerate(map(list, zip(*found, strict=True))))

    def _outwards(
        self, Cs: Array, folds: Sequence[Fold], units: Index
    ) -> dict[int, list[HeldOutScore]]:
        """Score all folds at one of these, increasing, after another, as far as needed."""
        tested = units[np.concatenate([fold.test for fold in folds])]
        found: dict[int, list[HeldOutScore]] = {}

        def score(index: int) -> ValueScore:
            found[index] = parallel(delayed(fold.score)(Cs[index]) for fold in folds)
            mean = float(np.mean([one.score for one in found[index]]))
            shares = np.concatenate([one.shares for one in found[index]]) / len(folds)
            return ValueScore(mean=mean, shares=np.bincount(tested, shares).astype(np.float64))

        # What is kept of a fold is not sent between processes; threads share it. The limit is of
        # the whole process: it is set around the threads, not by the first and unset by the last.
        with one_thread(), Parallel(n_jobs=self.n_jobs, require="sharedmem") as parallel:
            search_outwards(len(Cs), score)
        return found

    def decision_function(self, X: ArrayLike | MappedCodes) -> Array:
        """Evaluate the linear functions whose largest decides.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples,) if n_classes == 2 else (n_samples, n_classes), float64
        """
        values = self._decision_values(X)
        return values[:, 0] if values.shape[1] == 1 else values

    def predict(self, X: ArrayLike | MappedCodes) -> NDArray[Any]:
        """Predict the label of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        values = self._decision_values(X)
        return np.asarray(self.classes_[decide(values)])

    def _decision_values(self, X: ArrayLike | MappedCodes) -> Array:
        check_is_fitted(self)
        if isinstance(X, MappedCodes):
            codes = validate_data(self, X, reset=False, skip_check_array=True)
        else:
            codes = validate_data(
                self, read_codes(X), reset=False, dtype=_FLOATS, ensure_all_finite=False
            )
        check_finite(codes)
        values = np.empty((len(codes), len(self.coef_)))
        for rows in row_blocks(*codes.shape):
            values[rows] = codes[rows].astype(np.float64) @ self.coef_.T
        if self.scale == "l2":
            values /= row_lengths(codes, np.arange(len(codes)))[:, None]
        return values + self.intercept_


def _choose(Cs: Array, scores: Array) -> float:
    """Choose the best mean score; of several, the smallest C, the most regularised.

    So does scikit-learn's ``GridSearchCV`` on an increasing grid, of which it takes the first. To
    take another would give other labels where it is not known that they are better ones.
    """
    means = scores.mean(axis=1)
    return float(Cs[means == np.nanmax(means)].min())


def _edge(Cs: Array, scores: Array, C: float) -> Literal["low", "high"] | None:
    """Return at which end of the grid ``C`` is, if scores still rise towards that end."""
    order = np.argsort(Cs)
    means = scores.mean(axis=1)[order]
    if len(Cs) > 1 and Cs[order[0]] == C and means[0] > means[1]:
        return "low"
    return "high" if len(Cs) > 1 and Cs[order[-1]] == C and means[-1] > means[-2] else None
