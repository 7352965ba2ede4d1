"""The score while training: a few samples of the averaged weights against training images."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ddpm_kedro.construction import build
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor, features_of
from ddpm_kedro.evaluation.mind import mind
from ddpm_kedro.progress import hidden
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.generators import own_generators
from ddpm_kedro.training.step.state import LearningState, contiguous, under
from ddpm_kedro.training.store.checkpoint import Checkpoint

LOGGER = logging.getLogger(__name__)

NUM_IMAGES = 256  # drawn, and compared with as many of the reference
NUM_STEPS = 10  # of the sampler, each one call of the network
FEWEST_IMAGES = 16  # to compare with; fewer say nothing
MOST_FITTED = 2048  # images that features which are fitted are fitted on
SEED = 0x5C02E  # of the noise: nobody samples with it


class QuickScore:
    """MIND of `NUM_IMAGES` samples, drawn in `NUM_STEPS` steps of DPM-Solver++ whatever sampler the
    model has, to tell the states of a training apart.

    Noise and reference are the same at each call, so the lowest score is partly luck with these and
    lower than a fresh one would be. That luck ends with the choice: `sampling.weights: best` draws
    with the noise of `sampling.seed`, and evaluation has a reference of its own, held-out images
    where there are enough. Neither had a say in the choice, so its scores flatter the best weights
    no more than any others.

    The reference is drawn from `images`, uint8 (N, C, H, W): of those that training holds out, with
    the numbers `held_out_rows`, if they are enough. InputError where there are no such features.
    """

    def __init__(self, images: np.ndarray, held_out_rows: np.ndarray, state: LearningState) -> None:
        self._model = state.model
        most = state.model.denoiser.schedule.num_timesteps or NUM_STEPS
        self._solver = {"type": "ddpm_kedro.DPMSolver2M", "num_steps": min(NUM_STEPS, most)}
        self._extractor = extractor_of(state.settings, images.shape[1:]).to(state.device)
        self._device = state.device
        # Evaluation, with its usual seed, takes its reference from the other end of this order
        order = np.random.default_rng(0).permutation(len(images))
        held_out = order[np.isin(order, held_out_rows)]
        rows = held_out if len(held_out) >= NUM_IMAGES else order
        with hidden():
            self._extractor.fit(images[np.sort(order[:MOST_FITTED])])
        began_at = time.monotonic()
        self._reference = self._features(images[np.sort(rows[-NUM_IMAGES:])])
        self.feature_seconds = time.monotonic() - began_at
        self.yardstick = f"{self._extractor.identity}, {len(self._reference)} images"

    def __call__(self, on_step: Callable[[float], object] | bool = False, **drawn: Any) -> float:
        """The score of the network as it stands: >= 0, lower is better. Its modes and all random
        generators stay as they are; `on_step` and `drawn` as in `Model.sample`."""
        number = len(self._reference)
        samples = self._model.sample(
            number, seed=SEED, sampler=self._solver, progress=on_step, **drawn
        )
        return mind(self._features(samples), self._reference, self._device)

    def _features(self, images: np.ndarray) -> np.ndarray:
        with hidden():
            return features_of(self._extractor, images)


def quick_score(
    images: np.ndarray, held_out_rows: np.ndarray, state: LearningState
) -> QuickScore | None:
    """The one that the settings ask for, if they do and there are images enough."""
    if state.settings.score_every_kimg is None:
        return None
    if len(images) < FEWEST_IMAGES:
        LOGGER.info("no quick scores: %d training images are too few", len(images))
        return None
    with own_generators(state.device):
        return QuickScore(images, held_out_rows, state)


def extractor_of(settings: TrainingSettings, image_shape: Sequence[int]) -> FeatureExtractor:
    """What quick scores compare images (C, H, W) by; InputError where it cannot."""
    extractor: FeatureExtractor = build(settings.features).for_images(tuple(image_shape))
    extractor.check()
    return extractor


@dataclass
class BestWeights:
    """The averaged weights with the lowest quick score so far, a part of every checkpoint.

    So each checkpoint has the best up to its own step, whole whenever it is whole itself, and a
    training that goes on from it knows of no state that it may not come to.
    """

    score: float = math.inf
    images_seen: int | None = None  # None: there are no such weights
    yardstick: str | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)  # by their names in the network

    def offer(self, score: float, images_seen: int, network: nn.Module) -> None:
        """Take what `network` has now if its score is lower."""
        if score < self.score:
            self.score, self.images_seen = score, images_seen
            self.weights = contiguous(network)

    def beats(self, score: float | None) -> bool:
        """Whether these are better than the weights with that score; None: nobody knows it."""
        return self.images_seen is not None and not (score is not None and score <= self.score)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {f"best/{name}": value for name, value in self.weights.items()}

    def facts(self) -> dict[str, Any]:
        """For a checkpoint, besides the tensors."""
        if self.images_seen is None:
            return {}
        known = {"score": self.score, "images_seen": self.images_seen, "yardstick": self.yardstick}
        return {"best": known}

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint | None, measure: QuickScore | None
    ) -> BestWeights:
        """Those in `checkpoint`; none where another yardstick found them than that of `measure`,
        which will judge later weights (None: nothing will)."""
        yardstick = None if measure is None else measure.yardstick
        facts: Mapping[str, Any] = checkpoint.facts.get("best", {}) if checkpoint else {}
        if checkpoint is None or not facts:
            return cls(yardstick=yardstick)
        if measure is not None and yardstick != facts["yardstick"]:
            said = "quick scores so far were by %s, now the best weights are looked for anew by %s"
            LOGGER.info(said, facts["yardstick"], yardstick)
            return cls(yardstick=yardstick)
        # Clones: the file that the tensors are mapped from is removed one day
        weights = {n: value.clone() for n, value in under(checkpoint.tensors, "best/").items()}
        return cls(facts["score"], facts["images_seen"], facts["yardstick"], weights)
