"""The whole evaluation: from samples, images and a model to one flat table of numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.precision import choose_device, choose_precision
from ddpm_kedro.evaluation.cards import scored_card
from ddpm_kedro.evaluation.curves import Figure, distance_figure
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.memorisation import Closeness, closest_pairs
from ddpm_kedro.evaluation.metric_names import TITLES
from ddpm_kedro.evaluation.scores import (
    Metrics,
    check_shapes,
    class_metrics,
    denoising_metrics,
    distribution_metrics,
    memorisation_metrics,
)
from ddpm_kedro.evaluation.sets import compared_sets
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.evaluation.timing import predicted_seconds
from ddpm_kedro.evaluation.verdict import verdict
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.progress import duration

LOGGER = logging.getLogger(__name__)

NUM_CLOSEST = 8  # pairs of sample and training image that a report shows


def evaluate(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    denoiser: Denoiser,
    settings: EvaluationSettings,
    store: FeatureStore | None = None,
    training: Mapping[str, Any] | None = None,
) -> tuple[Metrics, dict[str, Any]]:
    """Judge samples and the model they come from.

    `samples` are uint8 (N, C, H, W), values 0..255, in the order they were drawn; `train` and
    `test` the images the model learned from, and those it never saw. `denoiser` is the model's;
    `settings` say how thoroughly, and where. Features of images are taken from `store`, and kept
    there; `training` is what `verdict` may know of the model's training.

    Returns `metrics`, a flat dict of numbers and texts (`skipped_*` says what could not be done),
    explained in `ddpm_kedro.evaluation.metric_names`; and `diagnostics`, plain data for a report:
    `figures` (Plotly dicts), `closest` pairs, `class_counts`, and `scored`, what the scores' stamp
    stands for. InputError where the sets do not belong together or are too small.
    """
    check_shapes(samples, train, test)
    device = choose_device(settings.device)
    extractor = build(settings.features).for_images(train.image_shape).to(device)
    sets = compared_sets(samples, train, test, settings.max_images, settings.seed)
    precision = choose_precision(settings.precision, device).name
    of_loss = {"seed": settings.seed, "device": device, "precision": precision}
    seconds = predicted_seconds(
        samples, train, test, denoiser, extractor, settings, sets, store, **of_loss
    )
    LOGGER.info(
        "evaluating %s samples by %s, the model in %s, takes about %s",
        f"{len(samples):,}",
        extractor.identity,
        precision,
        duration(seconds),
        extra={"predicted": {"evaluation": seconds}},
    )
    scored, features = distribution_metrics(extractor, sets, test, settings.seed, device, store)
    of_network = {} if extractor.uses_pixels else {"features": features, "sets": sets}
    memorisation, nearest = memorisation_metrics(
        samples, train, test, settings.neighbour_images, device, **of_network
    )
    classes, class_counts = class_metrics(
        train, test, nearest.get("features", nearest["pixels as they are"])
    )
    denoising, noise_figure = denoising_metrics(
        denoiser,
        train,
        test,
        max_images=settings.denoising_images,
        num_levels=settings.noise_levels,
        batch_size=settings.batch_size,
        **of_loss,
    )
    card = scored_card(extractor, sets)
    metrics = _finite(scored | memorisation | classes | denoising) | {
        "num_samples": len(samples),
        "num_training_images": len(train),
        "num_held_out_images": len(test),
        "stamp": card["stamp"],
    }
    metrics["verdict"] = verdict(metrics, training)
    diagnostics = {
        "figures": {"denoising": noise_figure, **_distance_figures(nearest)},
        "closest": closest_pairs(
            nearest.get("features", nearest["pixels"]), samples, train, NUM_CLOSEST
        ),
        "class_counts": class_counts,
        "scored": card,
    }
    _log(metrics)
    return metrics, diagnostics


def _distance_figures(nearest: Mapping[str, Closeness]) -> dict[str, Figure]:
    """In grey levels; and, where there are features, relative to the tenth nearest image, which
    shows copies and no blur."""
    pixels, features = nearest["pixels"], nearest.get("features")
    figures = {
        "nearest_training": distance_figure(
            {"samples": pixels.samples.distance, "held out": pixels.held_out.distance}
        )
    }
    if features is not None:
        figures["nearest_training_features"] = distance_figure(
            {"samples": features.samples.relative, "held out": features.held_out.relative},
            "distance in features, as part of that to the tenth nearest",
        )
    return figures


def _finite(metrics: Metrics) -> Metrics:
    """Replace numbers that are none, which JSON cannot say, and give the reason beside them."""
    reasons = {
        name: "all sets of real images score the same, so nothing is known of chance"
        if name.endswith("_z")
        else f"it came out as {value}"
        for name, value in metrics.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    for name, reason in reasons.items():
        if not name.endswith("_z"):
            LOGGER.warning("%s: %s, the model's answers are not finite numbers", name, reason)
    skipped = {f"skipped_{name}": reason for name, reason in reasons.items()}
    return metrics | dict.fromkeys(reasons) | skipped


def _log(metrics: Mapping[str, Any]) -> None:
    numbers = ", ".join(
        f"{title.removeprefix('the ')} {metrics[name]:.4g}"
        for name, title in {**TITLES, "denoising_loss_held_out": "held-out loss"}.items()
        if metrics.get(name) is not None
    )
    LOGGER.info("%s (%s; stamp %s)", metrics["verdict"], numbers, metrics["stamp"])
    if metrics["memorisation_suspected"]:
        LOGGER.warning(
            "more samples are near copies of training images than chance allows: look at the "
            "closest pairs in the report"
        )
