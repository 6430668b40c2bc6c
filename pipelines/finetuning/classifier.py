"""A scikit-learn classifier over image files: a network fine-tuned from some layer on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from codes.data.readers.datasets import list_images
from codes.graph.heads import head_input
from codes.graph.starts import choose_starts
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.extraction.transformer import learn_intensity, paths_of
from pipelines.finetuning.handover import train_on_all
from pipelines.finetuning.prepare import last_codes, prepare
from pipelines.progress import Silent
from pipelines.statistics.scoring import default_scoring
from pipelines.training.maps import store_maps
from pipelines.training.options import WEIGHT_DECAY, FinetuneOptions
from pipelines.training.run import EVALUATED


class FineTuned(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies images by a network that is fine-tuned from some layer on.

    Everything before the start is computed once, and kept in the store for every later fit.

    Parameters
    ----------
    backbone : str, default="bundled"
        As for `pipelines.ExtractionOptions`.
    start : str, default="auto"
        The first module that is trained; "auto" is the last stage.
    weights, intensity : str, optional
        As for `pipelines.ExtractionOptions`; the range "dataset" is found by `fit`.
    lr, weight_decay : float or str, optional
        As for `pipelines.training.options.FinetuneOptions`.
    epochs : int, optional
    augment : str, default="crop,flip"
    views_cached : int, optional
    head : {"probe", "random"}, default="probe"
    batch_norm : {"frozen", "train"}, default="frozen"
    cv : int, default=5
        Folds of the training images; some of them validate.
    precision : str, default="float32"
    device : str, default="auto"
    store : str or Path, optional
    random_state : int, default=0

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    intensity_ : str or None
        The range in use, with LOW:HIGH in place of "dataset".
    start_ : str
        The first module that was trained.
    setting_ : Setting
        The learning rate, penalty and epochs that validation chose.
    validation_score_ : float
        The highest of all that were tried, and so a little too good.
    temperature_ : float

    Examples
    --------
    >>> FineTuned("bundled", start="fc6").get_params()["start"]
    'fc6'
    """

    def __init__(
        self,
        backbone: str = "bundled",
        start: str = "auto",
        *,
        weights: str | None = None,
        intensity: str | None = None,
        lr: float | str | None = None,
        weight_decay: float | str = WEIGHT_DECAY,
        epochs: int | None = None,
        augment: str = "crop,flip",
        views_cached: int | None = None,
        head: str = "probe",
        batch_norm: str = "frozen",
        cv: int = 5,
        precision: str = "float32",
        device: str = "auto",
        store: str | Path | None = None,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.start = start
        self.weights = weights
        self.intensity = intensity
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.augment = augment
        self.views_cached = views_cached
        self.head = head
        self.batch_norm = batch_norm
        self.cv = cv
        self.precision = precision
        self.device = device
        self.store = store
        self.random_state = random_state

    def fit(self, X: Sequence[str | Path], y: Sequence[Any]) -> Self:
        """Fine-tune the network.

        Parameters
        ----------
        X : sequence of str or Path
            Image files.
        y : sequence
            Their classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the start is not available, or every learning rate diverges.
        """
        labels = np.asarray(y)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds {len(self.classes_)} class; a classifier needs two or more.")
        self.intensity_ = learn_intensity(X, self._options())
        extraction = self._extract(X)
        graph = extraction.backbone.graph
        start = choose_starts(graph, self.start)[-1]
        # Numbers as words of one length, so that classes stand in their own order.
        numbers = np.searchsorted(self.classes_, labels).astype(str)
        samples = Samples(y=np.char.zfill(numbers, len(str(len(self.classes_)))))
        options = FinetuneOptions(
            starts=(start.name,), lr=self.lr, weight_decay=self.weight_decay, epochs=self.epochs,
            augment=self.augment, views_cached=self.views_cached, head=self.head,
            batch_norm=self.batch_norm,
        )  # fmt: skip
        trainer = prepare(extraction, samples.numbers, options, progress=Silent())
        trained = train_on_all(
            trainer, start.name, last_codes(extraction, Silent()), samples,
            protocol=Protocol(cv=self.cv, random_state=self.random_state),
            scoring=default_scoring(samples.y), progress=Silent(),
        )  # fmt: skip
        self.start_, self._start = start.name, start
        self.setting_ = trained.chosen.best.setting
        self.validation_score_ = trained.chosen.best.score
        self.temperature_ = trained.temperature
        self._network = trained.network.eval()
        return self

    def predict_log_proba(self, X: Sequence[str | Path]) -> NDArray[np.float64]:
        """Compute the logarithms of the classes' probabilities.

        Parameters
        ----------
        X : sequence of str or Path

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
        """
        check_is_fitted(self)
        extraction = self._extract(X)
        maps = store_maps(
            extraction, [self._start], augment=(), n_views=0, dtype="float16",
            random_state=self.random_state, progress=Silent(),
        )[self._start.name]  # fmt: skip
        parts = []
        with torch.inference_mode():
            for first in range(0, len(extraction.images), EVALUATED):
                rows = np.arange(len(extraction.images))[first : first + EVALUATED]
                logits = self._network(maps.read(rows, 0).float())
                parts.append(logits.double().log_softmax(1).numpy())
        return np.concatenate(parts)

    def predict_proba(self, X: Sequence[str | Path]) -> NDArray[np.float64]:
        """Compute the classes' probabilities.

        Parameters
        ----------
        X : sequence of str or Path

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Sequence[str | Path]) -> NDArray[Any]:
        """Predict the classes of images.

        Parameters
        ----------
        X : sequence of str or Path

        Returns
        -------
        labels : ndarray of shape (n_images,)
        """
        log_proba = self.predict_log_proba(X)
        return np.asarray(self.classes_[log_proba.argmax(1)])

    def _extract(self, X: Sequence[str | Path]) -> Extraction:
        options = replace(self._options(), intensity=self.intensity_)
        backbone = backbone_of(options)
        end = backbone.graph.names[head_input(backbone.graph)]
        options = replace(options, layers=end, pool="avg")
        return extract(list_images(paths_of(X)), options, backbone=backbone)

    def _options(self) -> ExtractionOptions:
        return ExtractionOptions(
            backbone=self.backbone, weights=self.weights, intensity=self.intensity,
            precision=self.precision, device=self.device, store=self.store,
            random_state=self.random_state,
        )  # fmt: skip
