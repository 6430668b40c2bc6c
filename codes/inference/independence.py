"""Independence: the codes of an image are its own, whatever passes the network beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Codes = dict[str, Tensor]

MOST_IN_FLOAT32 = 1e-3
MOST_IN_HALF = 0.125
"""Share of a code's length that rounding in another order may move it by. Rounding alone moves 18
networks by 0.016 or less in bfloat16, and by 1.4e-6 in float32."""


class DependentCodesError(ValueError):
    """An image has other codes when it passes the network again in other company."""


def require_independence(
    read: Callable[[Tensor], Codes], pixels: Tensor, codes: Codes, dtype: torch.dtype
) -> None:
    """Read the first image of a batch again, between others, and compare.

    A network that mixes the images of a batch gives codes that cannot be kept: they would depend
    on how a dataset happens to be cut.

    Parameters
    ----------
    read : callable
        From pixels of shape (n, 3, height, width), uint8, to codes by name.
    pixels, codes
        A batch of one or more, and what it was read as, in forward order.
    dtype : torch.dtype
        What the network computes in.

    Raises
    ------
    DependentCodesError
        If the codes differ by more than rounding explains; it names the earliest layer.
    """
    image = pixels[:1]
    # Noise, as pictures of a dataset may all be alike; more of it behind than before, or the image
    # would stay where it is when a batch is turned around.
    generator = torch.Generator().manual_seed(0)
    shape = 3, *image.shape[1:]
    noise = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    again = read(torch.cat([noise[:1], image, noise[1:]]))
    most = MOST_IN_FLOAT32 if dtype == torch.float32 else MOST_IN_HALF
    for name, rows in codes.items():
        before, after = rows[0].double(), again[name][1].double()
        moved = float((before - after).norm() / before.norm().clamp(min=1e-30))
        if moved > most:  # Not where a code is NaN, which has an error of its own.
            raise DependentCodesError(
                f"Layer {name!r} gives an image other codes in other company (they moved by "
                f"{moved:.2g} of their length between other images; rounding explains "
                f"{most:.2g}): the network normalises by the images of a batch, mixes them, or "
                "draws random numbers. Choose --layers before that, or mend the network."
            )
