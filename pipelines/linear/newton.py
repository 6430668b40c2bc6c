"""Newton's method with preconditioned conjugate gradients, all outputs at once.

Minimises ``½‖W‖² + loss(margins of W)``. The penalty makes this strongly convex with modulus
one, so a gradient bounds the distance to the optimum, ``‖W - W*‖ ≤ ‖∇‖``; for the squared hinge
among samples the duality gap, ``½‖W - W*‖² ≤ gap``, is a tighter bound. Relative to ``‖W‖`` that
bound is the *certificate*: the solver stops by it and reports it. (A rule relative to the
gradient at zero stops far too early where C is large.)

References
----------
Keerthi and DeCoste, "A modified finite Newton method for fast solution of large scale linear
SVMs", JMLR 6, 2005. Chapelle, "Training a support vector machine in the primal", Neural
Computation 19, 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.losses import HingeModel, LocalModel, Loss
from pipelines.linear.problems import LinearProblem

Array = NDArray[np.floating[Any]]

# The residual of a Newton system is reduced twentyfold before the next linearisation.
FORCING = 0.05
CG_LIMIT, CG_FEWEST = 500, 5
# Weights shorter than this share of the loss gradient's bound are zero but for rounding.
ZERO = 1e-10
# Certificate below which an exact step that leads no nearer has met its rounding.
NEAR = 1e-2
# Where rounding forbids a better certificate, so many steps without one end the search.
PATIENCE = 30


@dataclass(frozen=True)
class Point:
    """An unknown, its margins, and how far from the optimum it can be.

    Attributes
    ----------
    unknown : ndarray of shape (n_outputs, problem.size)
    margins : ndarray of shape (n_outputs, n_train), or (n_outputs, 0) where they are not kept
    certificate : float
        Upper bound of ``‖W - W*‖ / ‖W‖``, the worst output's.
    n_iter : int
        Newton iterations taken.
    n_cg : int
        Conjugate gradient iterations of the last Newton step that took any.
    """

    unknown: Array
    margins: Array
    certificate: float = np.inf
    n_iter: int = 0
    n_cg: int = 0


def minimise(
    problem: LinearProblem, loss: Loss, start: Point, *, tol: float, max_iter: int
) -> Point:
    """Minimise ``½‖W‖² + loss`` from ``start``.

    Returns
    -------
    Point
        Its certificate is at most ``tol`` unless ``max_iter`` Newton iterations did not suffice,
        or the last steps did not improve it.
    """
    unknown = start.unknown.copy()
    margins = start.margins.copy() if start.margins.size else problem.matvec(unknown)
    iterative = _IterativeStep(problem, start.n_cg)
    best, stuck = np.inf, 0
    for iteration in range(max_iter + 1):
        local = loss.at(margins)
        gradient = unknown + problem.rmatvec(local.gradient, exact=True)
        bound = _distance_bound(problem, loss, local, unknown, margins, gradient)
        certificate = float(bound.max())
        best, stuck = (certificate, 0) if certificate < best else (best, stuck + 1)
        if certificate <= tol or iteration == max_iter or stuck == PATIENCE:
            break
        part = np.arange(len(margins))
        if bound.size > 1:
            part = np.flatnonzero(bound > tol)
        step: Array = np.zeros((len(part), problem.size))
        solved = np.zeros(len(part), bool)
        # Exact steps lead no nearer than the rounding of their systems, which is large where C
        # is and copies of a row have two labels. The others start from the gradient: they refine.
        # Far from the optimum a certificate may rise for once, and exact steps go on.
        if not stuck or best > NEAR:
            step, solved = _direct_step(problem, local, unknown, part, iterative.n_cg)
        rest = part[~solved]
        if rest.size:
            of_rest = loss.take(rest), _rows(margins, rest), gradient[rest]
            step[~solved] = iterative(*of_rest, certificate)
        step_margins = problem.matvec(step)
        size = _line_search(problem, loss, unknown, margins, part, step, step_margins)
        unknown[part] += size * step
        margins[part] += size * step_margins
    return Point(unknown, margins, certificate, iteration, iterative.n_cg)


def _direct_step(
    problem: LinearProblem, local: LocalModel, unknown: Array, part: NDArray[np.intp], n_cg: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Solve the Newton systems of these outputs exactly, where the problem finds that quicker.

    Returns
    -------
    step : ndarray of shape (len(part), problem.size)
    solved : ndarray of shape (len(part),), bool
        Where ``step`` is valid.
    """
    step, solved = np.zeros((len(part), problem.size)), np.zeros(len(part), bool)
    if isinstance(local, HingeModel):
        for i, output in enumerate(part):
            quadratic = local.quadratic(output)
            optimum: Array | None = np.zeros(problem.size)  # of the penalty alone
            if len(quadratic.samples):
                optimum = problem.least_squares(quadratic, n_cg)
            if optimum is not None:
                step[i], solved[i] = optimum - unknown[output], True
    return step, solved


class _IterativeStep:
    """Newton steps by conjugate gradients, preconditioned at a cost that they must first earn."""

    def __init__(self, problem: LinearProblem, n_cg: int) -> None:
        self.n_cg = n_cg  # iterations of the last step
        self._problem = problem
        self._spent, self._each = np.inf, False
        self._forcing, self._before = FORCING, np.inf

    def __call__(self, loss: Loss, margins: Array, gradient: Array, certificate: float) -> Array:
        """Take a step, of the shape of ``gradient``, less roughly if the last one led nowhere."""
        problem, model, n_outputs = self._problem, loss.at(margins), len(margins)
        # A factorisation is bought once iterating has cost as much, so that the cost is at most
        # twice that of the best plan: one factor for all outputs, then one for each.
        cost = problem.prepare_cost(n_outputs)
        if self._each or self._spent >= cost:
            diagonal = model.diagonal()
            problem.prepare(diagonal if self._each else diagonal.mean(axis=0, keepdims=True))
            self._spent = 0.0
        last = self._each or n_outputs > problem.room
        limit = CG_LIMIT if last else max(CG_FEWEST, int(cost * n_outputs))
        # A rough solution of the system zigzags where stiff directions hide the others.
        slow = certificate >= 0.5 * self._before
        self._forcing = max(0.1 * self._forcing, 1e-8) if slow else FORCING
        self._before = certificate
        step, n_iter = _conjugate_gradients(problem, loss, model, gradient, self._forcing, limit)
        self._spent += n_iter
        self.n_cg = n_iter
        self._each = self._each or (n_iter == limit and not last)
        return step


def _distance_bound(
    problem: LinearProblem,
    loss: Loss,
    local: LocalModel,
    unknown: Array,
    margins: Array,
    gradient: Array,
) -> Array:
    """Upper bound of ``‖W - W*‖ / ‖W‖`` of each problem, shape ``(n_problems,)``."""
    if not local.balanced:
        return np.full(len(loss.total(gradient)), np.inf)
    rest: Array = gradient
    gap: Array = np.zeros((1, 1))
    if problem.is_dual and isinstance(local, HingeModel):
        rest, gap = local.dual_gap(unknown)
    squared = loss.total(problem.inner(rest, rest, problem.matvec(rest))) + 2.0 * loss.total(gap)
    norm = np.sqrt(np.maximum(loss.total(problem.inner(unknown, unknown, margins)), 0.0))
    slope = np.sqrt(loss.total(np.square(local.gradient))) * problem.radius
    scale = np.maximum(norm, ZERO * slope)
    bound = np.sqrt(np.maximum(squared, 0.0))
    # Where the loss has no slope, the weights are exactly zero.
    return np.asarray(np.where(scale > 0, bound / np.where(scale > 0, scale, 1.0), 0.0)).ravel()


def _conjugate_gradients(
    problem: LinearProblem,
    loss: Loss,
    local: LocalModel,
    gradient: Array,
    forcing: float,
    limit: int,
) -> tuple[Array, int]:
    """Solve the Newton system by preconditioned conjugate gradients; count the iterations."""
    residual = -gradient
    z, z_margins = problem.precondition(residual)
    rho = loss.total(problem.inner(residual, z, z_margins))
    target = forcing**2 * rho
    p, p_margins = z, z_margins
    step = np.zeros_like(gradient)
    for n_iter in range(1, limit + 1):  # noqa: B007
        slope = local.product(p_margins)
        curvature = loss.total(problem.inner(p, p, p_margins)) + loss.total(p_margins * slope)
        size = _ratio(rho, curvature)
        step += size * p
        residual = residual - size * (p + problem.rmatvec(slope, exact=False))
        z, z_margins = problem.precondition(residual)
        new = loss.total(problem.inner(residual, z, z_margins))
        if (new <= target).all():
            break
        beta, rho = _ratio(new, rho), new
        p, p_margins = z + beta * p, z_margins + beta * p_margins
    return step, n_iter


def _line_search(
    problem: LinearProblem,
    loss: Loss,
    unknown: Array,
    margins: Array,
    part: NDArray[np.intp],
    step: Array,
    step_margins: Array,
) -> Array:
    """Where the slope along ``step`` vanishes, to a hundredth: shape ``(n_problems, 1)``.

    The slope is increasing, so Newton in one dimension with a bracket finds it; for the squared
    hinge it is piecewise linear and this is exact in a few evaluations.
    """
    loss, unknown, margins = loss.take(part), _rows(unknown, part), _rows(margins, part)
    linear = loss.total(problem.inner(unknown, step, step_margins))
    square = loss.total(problem.inner(step, step, step_margins))
    first = np.abs(linear + loss.total(loss.at(margins).gradient * step_margins))
    size, low, high = np.ones_like(first), np.zeros_like(first), np.full_like(first, np.inf)
    for _ in range(50):
        model = loss.at(margins + size * step_margins)
        slope = linear + size * square + loss.total(model.gradient * step_margins)
        found = np.abs(slope) <= 1e-2 * first
        if found.all():
            break
        low, high = np.where(slope < 0, size, low), np.where(slope > 0, size, high)
        bend = square + loss.total(step_margins * model.product(step_margins))
        guess = size - _ratio(slope, bend)
        middle = np.where(np.isinf(high), 2.0 * size, 0.5 * (low + np.minimum(high, 1e300)))
        inside = (guess > low) & (guess < high)
        size = np.where(found, size, np.where(inside, guess, middle))
    return size


def _rows(array: Array, part: NDArray[np.intp]) -> Array:
    """Take rows, each once; all of them without a copy."""
    return array if len(part) == len(array) else array[part]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient, zero where the denominator is not positive (that problem is solved)."""
    positive = denominator > 0
    return np.asarray(np.where(positive, numerator / np.where(positive, denominator, 1.0), 0.0))
