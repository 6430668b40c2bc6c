"""Reading: crops pass a network, as many together as the device's memory holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from codes.graph.copying import move_network
from codes.inference.compiling import CompiledNetwork
from codes.inference.independence import require_independence
from codes.inference.tuning import cast_weights, fold_norms, prepare_convolutions
from codes.preprocessing import Preprocessing

Codes = dict[str, Tensor]


class BatchReader:
    """A network on its device, tuned for it, that turns crops into codes.

    It is as `codes.graph.cutting.cut_network` cuts it, and this reader's own from here on.

    Attributes
    ----------
    most : int or None
        Crops that fit into the device's memory together, once more did not.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        preprocessing: Preprocessing,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compile: bool = False,
    ) -> None:
        fold_norms(network)
        network = move_network(network, device)
        if dtype != torch.float32:
            cast_weights(network, dtype)
        self._network: Callable[[Tensor], Codes] = network
        if compile:
            self._network = CompiledNetwork(network, device)
        elif device.type == "cpu":
            prepare_convolutions(network)
        self._preprocessing, self._device, self._dtype = preprocessing, device, dtype
        self._independent = False
        self.most: int | None = None

    def forward(self, pixels: Tensor) -> Codes:
        """Let crops pass the network, all at once: as `codes.CodeExtractor` is called."""
        with torch.inference_mode():
            images = self._preprocessing.normalize(pixels.to(self._device, non_blocking=True))
            half = self._dtype != torch.float32
            with torch.autocast(self._device.type, self._dtype, enabled=half):
                return self._network(images)

    def read(self, pixels: Tensor, batch_size: int) -> Codes:
        """Read the codes of a batch; of the first, check that they are each crop's own.

        At most `batch_size` crops pass together; half as many from where the memory ends.

        Raises
        ------
        DependentCodesError
            If an image has other codes in other company.
        MemoryError
            If one crop alone does not fit.
        """
        codes = self._in_parts(pixels, batch_size)
        if not self._independent:
            require_independence(
                lambda few: self._in_parts(few, len(few)), pixels, codes, self._dtype
            )
            self._independent = True
        return codes

    def _in_parts(self, pixels: Tensor, batch_size: int) -> Codes:
        parts: list[Codes] = []
        done = 0
        while done < len(pixels):
            taken = pixels[done : done + min(batch_size, self.most or batch_size)]
            try:
                parts.append(self.forward(taken))
                done += len(taken)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(taken) == 1:
                    raise MemoryError(
                        f"One image alone does not fit into the memory of {self._device}. Use "
                        "another --device, a smaller --image-size or --precision bfloat16."
                    ) from error
                self.most = len(taken) // 2
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _is_out_of_memory(error: Exception) -> bool:
    said = ("can't allocate memory", "CUDA error: out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)
