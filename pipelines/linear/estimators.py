"""Linear classifiers that choose their C by cross-validation, exactly and fast.

`LinearSVCCV` and `LogisticCV` answer as ``GridSearchCV`` over scikit-learn's converged
``LinearSVC`` and ``LogisticRegression`` would, and share all that the grid repeats: a fold is
reduced once to its smaller side, and each C starts from the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.linear.base import LinearCV
from pipelines.linear.mapped import MappedCodes
from pipelines.linear.path import log_probabilities

Array = NDArray[np.floating[Any]]


@dataclass(eq=False, repr=False)
class LinearSVCCV(LinearCV):
    """Linear support vector machine whose C is chosen by cross-validation.

    Squared hinge, one against the rest, the intercept penalised: the model, and the answer, of a
    converged ``LinearSVC`` under ``GridSearchCV``.

    Parameters
    ----------
    Cs : array-like of shape (n_Cs,), default=1e-6, 1e-5, ..., 1e2
        Values of C to choose from, positive, in any order; the inverse of the penalty's strength.
    cv : int, splitter, iterable of (train, test) or None, default=None
        An int makes stratified folds, shuffled by ``random_state``; None makes five, or as many
        as the rarest class has members.
    scale : {"standard", "l2", None}, default="standard"
        Zero mean and unit variance of each feature, by the statistics of the training rows of
        each fold (a constant feature is left out); unit length of each sample; or as it is.
    class_weight : dict, "balanced" or None, default=None
        As in ``LinearSVC``.
    scoring : str, scorer or None, default=None
        What chooses C: a score's name, or a scorer of ``make_scorer``; None is accuracy.
    tol : float, default=1e-5
        Relative distance to the optimum at which a fit stops: ``‖w - w*‖ <= tol * ‖w‖``.
    max_iter : int, default=100
        Most Newton iterations for one C.
    random_state : int, RandomState instance or None, default=None
        Shuffles the folds where ``cv`` is an int or None. The fit itself draws nothing.
    n_jobs : int or None, default=None
        Folds run in parallel, through joblib's current backend, or in threads where
        ``search="path"``; BLAS is limited to one thread. No result depends on it.
    search : {"path", "full"}, default="path"
        Which of ``Cs`` are looked at: see Notes; or all.

    Attributes
    ----------
    C_ : float
        The C with the best mean score of those looked at; of several, the smallest, so the most
        regularised.
    C_at_edge_ : {"low", "high", None}
        Whether ``C_`` is the smallest or largest of ``Cs``, and scores rise towards it: then the
        best may be beyond them.
    Cs_ : ndarray of shape (n_Cs,)
        ``Cs`` as an array.
    scores_ : ndarray of shape (n_Cs, n_folds)
        Held-out scores, in the order of ``Cs_``; NaN for a C that was not looked at.
    coef_ : ndarray of shape (1, n_features) if n_classes == 2 else (n_classes, n_features)
        Weights of the input's own features (with ``scale="l2"``, of the samples at unit length).
    intercept_ : ndarray of shape (1,) if n_classes == 2 else (n_classes,)
        Constants in the decision function.
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    certificate_ : float
        Upper bound of ``‖w - w*‖ / ‖w‖`` over all fits that were made; at most ``tol`` unless a
        ``ConvergenceWarning`` was raised.
    n_iter_ : int
        Newton iterations of the last fit.
    n_features_in_ : int
        Number of features seen in fit.

    Notes
    -----
    ``search="path"`` starts with the middle of the grid and the value below it, and goes on to
    smaller values and then to larger ones, all folds together. A side ends beyond the best value so
    far where a value is worse than it by more than 3 standard errors of the paired difference, or
    two in a row by more than 2. With ``d`` what a held-out sample adds to the mean score with the
    best value, less what it adds with the other, the difference is ``Σ d`` and its standard error
    ``√Σ d²``; samples of one group, or tested in several folds, are added up to one ``d`` first.
    For accuracy this is McNemar's test, so that fewer than ten samples never end a side at once.

    This takes a score that is a sum over samples: accuracy, "balanced_accuracy" and
    "neg_log_loss". With any other score, and with a scorer of ``make_scorer``, all of ``Cs`` are
    looked at, since the differences between a few folds would be too few for a standard error. So
    they are where features outnumber samples and the Gram matrices of all folds take over 1 GiB
    (five folds of more than some 5,000 samples): then one fold at a time is held.

    References
    ----------
    Keerthi and DeCoste, "A modified finite Newton method for fast solution of large scale linear
    SVMs", JMLR 6, 2005. Fan et al., "LIBLINEAR", JMLR 9, 2008, equation (2). McNemar, "Note on the
    sampling error of the difference between correlated proportions or percentages", Psychometrika
    12, 1947.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = LinearSVCCV(Cs=[1e-4, 1e-2, 1], cv=3, random_state=0).fit(X[:900], y[:900])
    >>> classifier.C_
    0.01
    >>> bool(classifier.score(X[900:], y[900:]) > 0.9)
    True
    >>> wide = LinearSVCCV(cv=3, random_state=0).fit(X[:900], y[:900])
    >>> wide.Cs_[np.isnan(wide.scores_).all(axis=1)].tolist()
    [1e-06, 1e-05, 10.0, 100.0]
    """

    _kind = "squared_hinge"


@dataclass(eq=False, repr=False)
class LogisticCV(LinearCV):
    """Multinomial logistic regression whose C is chosen by cross-validation.

    The intercept is free: the model, and the answer, of a converged ``LogisticRegression`` under
    ``GridSearchCV``.

    Parameters
    ----------
    Cs, cv, scale, class_weight, scoring, tol, max_iter, random_state, n_jobs, search
        As for `LinearSVCCV`; ``class_weight`` is that of ``LogisticRegression``.

    Attributes
    ----------
    C_, C_at_edge_, Cs_, scores_, coef_, intercept_, classes_, certificate_, n_iter_, n_features_in_
        As of `LinearSVCCV`.

    References
    ----------
    Lin, Weng and Keerthi, "Trust region Newton method for large-scale logistic regression", JMLR
    9, 2008. Hastie, Tibshirani and Friedman, "The elements of statistical learning", 2nd edition,
    section 4.4.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = LogisticCV(Cs=[1e-2, 1e-1, 1], cv=3, random_state=0).fit(X[:900], y[:900])
    >>> classifier.C_
    1.0
    >>> classifier.predict_proba(X[900:]).shape
    (897, 10)
    """

    _kind = "softmax"

    def predict_log_proba(self, X: ArrayLike | MappedCodes) -> Array:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
        """
        return log_probabilities(self._decision_values(X))

    def predict_proba(self, X: ArrayLike | MappedCodes) -> Array:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
        """
        return np.exp(self.predict_log_proba(X))
