"""A scikit-learn transformer from image files to codes, which reads the store underneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cache import CodeStore
from codes.data.readers.archives import is_archive
from codes.data.readers.datasets import list_images
from codes.decoding.intensity import DATASET
from pipelines.extraction.extract import extract, read_digests
from pipelines.extraction.intensity import settle_intensity
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Silent


@dataclass(eq=False, repr=False)
class CodesTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns paths of images into the codes of one layer.

    What the store holds is read from it, so that every fold and every experiment after the first
    extracts nothing.

    Parameters
    ----------
    backbone : str, default="bundled"
        As for `pipelines.ExtractionOptions`.
    layer : str, default="fc7.relu"
        One layer's name.
    weights, image_size, intensity, dense, views, decode, page, pool, activation, precision, dtype
        As for `pipelines.ExtractionOptions`: they decide which codes these are. The range of
        intensities "dataset" is found by `fit`; in a cross-validation each fold has one of its own,
        and so codes of its own.
    device, batch_size, workers, store
        As for it too; the codes do not depend on them.

    Attributes
    ----------
    intensity_ : str or None
        The range in use, with LOW:HIGH in place of "dataset".

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from pipelines import LinearSVCCV
    >>> pipeline = make_pipeline(CodesTransformer(layer="fc7.relu"), LinearSVCCV(cv=3))
    >>> pipeline[0].get_params()["layer"]
    'fc7.relu'
    """

    backbone: str = "bundled"
    layer: str = "fc7.relu"
    _: KW_ONLY
    weights: str | None = None
    image_size: int | None = None
    intensity: str | None = None
    dense: bool = False
    views: str = "center"
    decode: str = "scaled"
    page: int | None = None
    pool: str = "grid"
    activation: str = "post"
    precision: str = "float32"
    dtype: str = "float16"
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    store: str | Path | None = None

    def fit(self, X: Sequence[str | Path], y: object = None) -> Self:
        """Check the options, and find a range of intensities if they ask for one.

        Parameters
        ----------
        X : sequence of str or Path
            Image files.
        y : object
            Ignored.

        Returns
        -------
        self
        """
        options = ExtractionOptions(**self._asked())
        self.intensity_ = learn_intensity(X, options)
        return self

    def transform(self, X: Sequence[str | Path]) -> NDArray[Any]:
        """Read the codes of images.

        Parameters
        ----------
        X : sequence of str or Path
            Image files.

        Returns
        -------
        codes : ndarray of shape (n_images, n_features), float16 or float32

        Raises
        ------
        FileNotFoundError
            If a file does not exist.
        ValueError
            If an image cannot be read, or the layer's name stands for several layers.
        sklearn.exceptions.NotFittedError
            If a range of intensities is still to be found.
        """
        check_is_fitted(self)
        paths = paths_of(X)
        several = [str(path) for path in paths if path.is_dir() or is_archive(path)]
        if several:
            raise ValueError(
                f"{several[0]!r} is not a single image; one image file a row is needed."
            )
        extraction = extract(list_images(paths, page=self.page), self._options())
        if len(extraction.taps) != 1:
            names = ", ".join(tap.name for tap in extraction.taps)
            raise ValueError(f"layer={self.layer!r} stands for {names}; name one of them.")
        return extraction.codes(extraction.taps[0].name)

    def _options(self) -> ExtractionOptions:
        found = {"intensity": self.intensity_} if self.intensity == DATASET else {}
        return ExtractionOptions(**self._asked() | found)

    def _asked(self) -> dict[str, Any]:
        params = self.get_params()
        return {"layers": params.pop("layer"), **params}

    def __sklearn_is_fitted__(self) -> bool:
        return self.intensity != DATASET or hasattr(self, "intensity_")


def paths_of(X: Sequence[str | Path]) -> list[Path]:
    """Read the samples of a scikit-learn estimator as image files."""
    return [Path(str(path)) for path in np.asarray(X, object).ravel()]


def learn_intensity(X: Sequence[str | Path], options: ExtractionOptions) -> str | None:
    """Find the range of intensities "dataset" on image files; give any other as it is.

    Parameters
    ----------
    X : sequence of str or Path
    options : ExtractionOptions

    Returns
    -------
    intensity : str or None

    Raises
    ------
    ValueError
        If there is no such range.
    """
    if options.intensity != DATASET:
        return options.intensity
    images = list_images(paths_of(X), page=options.page)
    digests = read_digests(images, CodeStore(options.store), Silent())
    return settle_intensity(images, digests, options, Silent())[0].intensity
