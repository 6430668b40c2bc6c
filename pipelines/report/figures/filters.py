"""Pictures of the filters of a first convolution, as CS231n shows them.

https://cs231n.github.io/understanding-cnn/#vizconv
"""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_FILTERS, SIDE = 64, 240
"""Filters of a picture, and about how many pixels it is wide."""


def filters_picture(filters: NDArray[np.float32]) -> str:
    """Draw filters side by side, each scaled to its own range, as a data URL.

    Parameters
    ----------
    filters : ndarray of shape (n_filters, 3, height, width)
        Of more than 64, the first are drawn.

    Returns
    -------
    url : str
        Of a PNG, transparent between the filters.
    """
    shown = filters[:MOST_FILTERS].transpose(0, 2, 3, 1)
    low, high = (of(shown, axis=(1, 2, 3), keepdims=True) for of in (np.min, np.max))
    pixels = np.round(255 * (shown - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    n, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    times = max(1, SIDE // (columns * (width + 1)))
    tiles = np.zeros((rows * columns, height * times + 2, width * times + 2, 4), np.uint8)
    # Every value is a square of pixels, so that none is smoothed.
    tiles[:n, 1:-1, 1:-1, :3] = pixels.repeat(times, 1).repeat(times, 2)
    tiles[:n, 1:-1, 1:-1, 3] = 255
    _, height, width, _ = tiles.shape
    grid = tiles.reshape(rows, columns, height, width, 4).swapaxes(1, 2)
    buffer = io.BytesIO()
    image = Image.fromarray(grid.reshape(rows * height, columns * width, 4))
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
