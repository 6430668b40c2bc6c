"""Images drawn by formula: random strokes as classes, to train a network without photographs.

The idea is formula-driven supervision (Kataoka et al., "Pre-training without natural images",
ACCV 2020), with Bézier strokes in place of fractals. A class is a set of strokes; its drawings
differ by jittered control points, pose, pen, colours and a scan-like blur.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 64
_CANVAS = 128  # strokes are drawn without antialiasing, so twice as large
_POINTS = 14  # straight pieces a curve is drawn with, plus one

Floats = NDArray[np.float64]

_t = np.linspace(0.0, 1.0, _POINTS)[:, None]
_CUBIC = np.hstack([(1 - _t) ** 3, 3 * _t * (1 - _t) ** 2, 3 * _t**2 * (1 - _t), _t**3])
# A line and a parabola as cubic curves, so that every stroke has four control points.
_ELEVATE = {
    2: np.array([[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]),
    3: np.array([[1, 0, 0], [1 / 3, 2 / 3, 0], [0, 2 / 3, 1 / 3], [0, 0, 1]]),
    4: np.eye(4),
}


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How much the drawings of one class differ; lengths are shares of the image's side."""

    max_strokes: int = 4
    jitter: float = 0.06
    warp: float = 0.06
    rotation: float = 0.2
    slant: float = 0.35
    min_scale: float = 0.6
    aspect: float = 0.3
    min_pen: float = 0.04
    max_pen: float = 0.16
    min_grid: int = 6
    sharp: float = 0.12
    noise: float = 0.08
    filled: float = 0.1
    coloured: float = 0.6


@dataclass(frozen=True, kw_only=True)
class _Shape:
    strokes: Floats  # (n_strokes, 4, 2) control points; the whole fits the square [-1, 1]
    joined: NDArray[np.bool_]  # (n_strokes,) starts where the stroke before it ended
    smooth: NDArray[np.bool_]  # (n_strokes,) and leaves in the direction in which that arrived
    closed: bool
    filled: bool


class Drawings:
    """An endless, indexable set of drawn images.

    Every drawing depends on ``random_state``, the options and its index only, never on what was
    drawn before. Consecutive indexes go through the classes in turn.

    Examples
    --------
    >>> image, label = Drawings(n_classes=10)[13]
    >>> image.shape, str(image.dtype), label
    ((64, 64, 3), 'uint8', 3)
    """

    def __init__(
        self, *, n_classes: int, random_state: int = 0, options: DrawingOptions | None = None
    ) -> None:
        if n_classes < 1:
            raise ValueError(f"n_classes is {n_classes}; allowed: 1 or more.")
        if random_state < 0:
            raise ValueError(f"random_state is {random_state}; allowed: 0 or more.")
        self.n_classes = n_classes
        self.random_state = random_state
        self.options = options or DrawingOptions()
        self._shapes = [
            _shape(np.random.default_rng([random_state, 0, label]), self.options)
            for label in range(n_classes)
        ]

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Draw an image, RGB of shape (64, 64, 3), uint8; its label is ``index % n_classes``."""
        if index < 0:
            raise IndexError(f"index is {index}; allowed: 0 or more, without an upper end.")
        label = index % self.n_classes
        rng = np.random.default_rng([self.random_state, 1, index])
        curves = _curves(self._shapes[label], rng, self.options)
        mask = _render(curves, self._shapes[label].filled, rng, self.options)
        return _colour(mask, rng, self.options), label

    def batch(self, indexes: range) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Draw several images, shape (n, 64, 64, 3), uint8, and their labels, shape (n,)."""
        images = np.empty((len(indexes), SIZE, SIZE, 3), np.uint8)
        labels = np.empty(len(indexes), np.int64)
        for row, index in enumerate(indexes):
            images[row], labels[row] = self[index]
        return images, labels


def _shape(rng: np.random.Generator, options: DrawingOptions) -> _Shape:
    n_strokes = int(rng.integers(1, options.max_strokes + 1))
    strokes = np.empty((n_strokes, 4, 2))
    for row in range(n_strokes):
        n_points = int(rng.choice([2, 3, 4], p=[0.25, 0.35, 0.4]))
        strokes[row] = _ELEVATE[n_points] @ rng.uniform(-1, 1, (n_points, 2))
    joined = rng.random(n_strokes) < 0.6
    joined[0] = False
    smooth = joined & (rng.random(n_strokes) < 0.6)
    filled = bool(rng.random() < options.filled)
    closed = filled or bool(rng.random() < 0.2)
    shape = _Shape(strokes=strokes, joined=joined, smooth=smooth, closed=closed, filled=filled)
    points = (_CUBIC @ _join(shape, strokes)).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    # A class keeps its proportions up to 1 : 2.5, as characters do.
    span = np.maximum(high - low, (high - low).max() / 2.5)
    strokes = (strokes - (low + high) / 2) * 2 / span
    return replace(shape, strokes=strokes)


def _join(shape: _Shape, strokes: Floats) -> Floats:
    strokes = strokes.copy()
    for row in range(1, len(strokes)):
        if shape.joined[row]:
            strokes[row, 0] = strokes[row - 1, 3]
            if shape.smooth[row]:
                strokes[row, 1] = 2 * strokes[row, 0] - strokes[row - 1, 2]
    if shape.closed:
        strokes[-1, 3] = strokes[0, 0]
    return strokes


def _curves(shape: _Shape, rng: np.random.Generator, options: DrawingOptions) -> Floats:
    jitter = rng.standard_normal(shape.strokes.shape) * (2 * options.jitter)
    curves: Floats = _CUBIC @ _join(shape, shape.strokes + jitter)
    u = rng.random(12)
    # A slow wave across the image bends straight and curved parts together.
    curves = curves + (options.warp * 2 * u[0]) * np.sin(
        curves[..., ::-1] * (1 + 2 * u[1]) + 2 * np.pi * u[2:4]
    )
    angle = options.rotation * (2 * u[4] - 1) * 1.5
    stretch = np.exp(options.aspect * (2 * u[5] - 1))
    slant = options.slant * (2 * u[6] - 1)
    cos, sin = np.cos(angle), np.sin(angle)
    pose = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1.0, 0.0], [slant, 1.0]])
    curves = curves @ pose * np.array([stretch, 1 / stretch])
    low, high = curves.min((0, 1)), curves.max((0, 1))
    # Most drawings fill the frame, as scanned characters do; the rest stand anywhere in it.
    scale = 1.0 if u[7] < 0.5 else options.min_scale + (1 - options.min_scale) * u[8]
    curves = (curves - (low + high) / 2) * (2 * scale / (high - low).max())
    room = np.clip(1 - (high - low) * scale / (high - low).max(), 0, 1)
    offset = room * (2 * u[9:11] - 1) * (0.5 if u[11] < 0.7 else 1.0)
    centred: Floats = curves + offset
    return centred


def _render(
    curves: Floats, filled: bool, rng: np.random.Generator, options: DrawingOptions
) -> NDArray[np.float32]:
    u = rng.random(5)
    pen = _CANVAS * (options.min_pen + (options.max_pen - options.min_pen) * u[0] ** 1.5)
    half = (_CANVAS - pen * (0.6 + 0.8 * u[1])) / 2
    points = curves * half + _CANVAS / 2
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    radius = pen / 2
    if filled:
        draw.polygon(points.ravel().tolist(), fill=255)
    for stroke in points:
        draw.line(stroke.ravel().tolist(), fill=255, width=max(1, round(pen)))
        for x, y in (stroke[0], stroke[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    if u[2] < options.sharp:
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    else:
        # A scan of few pixels, enlarged: what a small grey image becomes on its way in here.
        grid = round(options.min_grid * (SIZE / options.min_grid) ** (u[3] ** 1.5))
        image = image.resize((grid, grid), Image.Resampling.BOX)
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / np.float32(255)


def _colour(
    mask: NDArray[np.float32], rng: np.random.Generator, options: DrawingOptions
) -> NDArray[np.uint8]:
    u = rng.random(16).astype(np.float32)
    n_channels = 3 if u[0] < options.coloured else 1
    paper, ink = u[1 : 1 + n_channels], u[4 : 4 + n_channels]
    # Part of the drawings is plain black and white, either way round.
    if u[7] < 0.3:
        paper, ink = np.zeros(1, np.float32), np.ones(1, np.float32)
        if u[8] < 0.5:
            paper, ink = ink, paper
    elif np.abs(ink - paper).max() < 0.3:
        ink = np.where(paper < 0.5, paper + 0.5, paper - 0.5).astype(np.float32)
    image = paper + (ink - paper) * mask[..., None]
    if u[9] < 0.4:  # uneven light
        line = np.linspace(-1, 1, SIZE, dtype=np.float32)
        light = (u[10] - 0.5) * line[:, None] + (u[11] - 0.5) * line
        image = image + 0.5 * light[..., None]
    if u[12] < 0.5:
        noise = rng.standard_normal((SIZE, SIZE, 1), np.float32)
        image = image + (options.noise * u[13]) * noise
    pixels = np.clip(image * 255, 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (SIZE, SIZE, 3))
