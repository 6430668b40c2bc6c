"""Independence: the codes of an image are its own, whatever passes the network beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Codes = dict[str, Tensor]

MOST_IN_FLOAT32 = 1e-3
MOST_IN_HALF = 0.125
"""Share of a code's length that rounding in another order may move it by. Rounding alone moves 18
networks by 0.016 or less in bfloat16, and dropout with p = 0.1 moves a layer by a third."""


class DependentCodesError(ValueError):
    """An image has other codes when it passes the network again in other company."""


def require_independence(
    read: Callable[[Tensor], Codes], pixels: Tensor, codes: Codes, dtype: torch.dtype
) -> None:
    """Read the first image of a batch again, beside its negative, and compare.

    A network that draws random numbers in its forward pass, or normalises by the images of a
    batch, gives codes that cannot be kept: the next image would be compared with chance.

    Parameters
    ----------
    read : callable
        From pixels of shape (n, 3, height, width), uint8, to codes by name; of the first image
        alone, or more.
    pixels : Tensor of shape (n, 3, height, width), uint8
        A batch of one or more.
    codes : dict of str to Tensor of shape (n, n_features)
        What it was read as, in forward order.
    dtype : torch.dtype
        What the network computes in.

    Raises
    ------
    DependentCodesError
        If the codes differ by more than rounding explains; it names the earliest layer.
    """
    image = pixels[:1]
    again = read(torch.cat([image, 255 - image]))
    most = MOST_IN_FLOAT32 if dtype == torch.float32 else MOST_IN_HALF
    for name, rows in codes.items():
        before, after = rows[0].double(), again[name][0].double()
        moved = float((before - after).norm() / before.norm().clamp(min=1e-30))
        if moved > most:  # Not where a code is NaN, which has an error of its own.
            raise DependentCodesError(
                f"Layer {name!r} answers an image otherwise each time (its codes moved by "
                f"{moved:.2g} of their length when it passed again beside another image; rounding "
                f"explains {most:.2g}): the network draws random numbers in its forward pass, as "
                "F.dropout does without training=self.training, or normalises by the images of a "
                "batch. Choose --layers before that, or mend the network."
            )
