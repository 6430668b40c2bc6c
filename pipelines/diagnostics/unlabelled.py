"""Images without labels: how similar they are to what a network was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache import CodeStore
from codes import ImageList
from codes.data.images import distinct
from codes.decoding.decode import Decoding, UnreadableImageError
from codes.inference.devices import find_device
from pipelines.diagnostics.similarity import Similarity, measure_similarity, sample_size
from pipelines.extraction.extract import backbone_of, read_digests, say_weights
from pipelines.extraction.left_out import say_skipped
from pipelines.extraction.normalization import NormalizationCheck, check_normalization
from pipelines.extraction.options import ExtractionOptions
from pipelines.extraction.settling import settle
from pipelines.progress import Progress, Silent


def compare_with_training(
    images: ImageList, options: ExtractionOptions, *, progress: Progress | None = None
) -> tuple[Similarity, NormalizationCheck | None]:
    """Measure similarity, and check the normalisation, of images without labels.

    The check is None without batch normalisation. Which layers the options name is ignored.

    Raises
    ------
    UnreadableImagesError
        If images that would be looked at cannot be decoded, and are not to be skipped.
    ValueError, OSError
        As `codes.load_backbone` raises them.
    """
    progress = progress or Silent()
    backbone, store = backbone_of(options), CodeStore(options.store)
    say_weights(backbone, options.weights, progress)
    device = str(find_device(options.device))
    digests = read_digests(images, store, progress)
    settled = settle(images, digests, backbone, options, seconds={}, progress=progress)
    backbone = settled.backbone
    decoding = replace(backbone.preprocessing.decoding, enough=1)
    kept, skipped = _readable(images, distinct(digests), sample_size(backbone), decoding)
    skip = options.skip_unreadable and len(kept) > 0
    say_skipped(skipped, len(images), progress, skip=skip, stored=False)
    images, digests = images.take(kept), digests[kept]
    similarity = measure_similarity(
        images,
        digests,
        backbone,
        store=store,
        device=device,
        random_state=options.random_state,
        progress=progress,
    )
    return similarity, check_normalization(images, digests, backbone, device=device)


def _readable(
    images: ImageList, places: NDArray[np.intp], n: int, decoding: Decoding
) -> tuple[NDArray[np.intp], dict[str, str]]:
    """Find the first images that can be decoded; those on the way that cannot, and why."""
    kept: list[int] = []
    skipped: dict[str, str] = {}
    for place in places.tolist():
        if len(kept) == n:
            break
        try:
            images.source.open(place, decoding)
            kept.append(place)
        except UnreadableImageError as error:
            skipped[images.source.names[place]] = str(error)
    return np.array(kept, np.intp), skipped
