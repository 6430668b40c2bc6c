"""Codes of a GPU against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codes import CodeExtractor, load_backbone, load_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("name", ["bundled", "resnet18", "squeezenet1_1"])
def test_codes_of_a_gpu_are_the_cpus(name: str, precision: str, most: float) -> None:
    backbone = load_backbone(name, weights=None if name == "bundled" else "none")
    digits = load_images("sklearn:digits").take(np.arange(50))
    [expected] = CodeExtractor(backbone).extract(digits, batch_size=50)
    extractor = CodeExtractor(backbone, precision=precision, device="cuda")
    for batch_size, workers in ((50, 0), (7, 0), (7, 2)):
        batches = list(extractor.extract(digits, batch_size=batch_size, workers=workers))
        for layer, codes in expected.codes.items():
            found = np.concatenate([batch.codes[layer] for batch in batches])
            assert np.abs(found - codes).max() <= most * np.abs(codes).max(), layer
