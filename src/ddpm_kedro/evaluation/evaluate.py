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
from ddpm_kedro.evaluation.curves import distance_figure
from ddpm_kedro.evaluation.scores import (
    Metrics,
    check_shapes,
    class_metrics,
    denoising_metrics,
    distribution_metrics,
    memorisation_metrics,
)
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.evaluation.timing import predicted_seconds
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
) -> tuple[Metrics, dict[str, Any]]:
    """Judge samples and the model they come from.

    Args:
        samples: uint8 (N, C, H, W), values 0..255, in the order they were drawn.
        train, test: the images the model learned from, and those it never saw.
        denoiser: of the model.
        settings: how thoroughly, and where.

    Returns:
        ``metrics``, a flat dict of numbers (and a text ``skipped_*`` for what could not be done),
        explained in :mod:`ddpm_kedro.evaluation.metric_names`; and ``diagnostics``, plain data for
        a report: ``figures`` (Plotly dicts), ``closest`` pairs, ``class_counts``.

    Raises:
        InputError: the sets do not belong together (``check_shapes`` in ``scores``).
    """
    check_shapes(samples, train, test)
    device = choose_device(settings.device)
    extractor = build(settings.features).for_images(train.image_shape).to(device)
    precision = choose_precision(settings.precision, device).name
    of_loss = {"seed": settings.seed, "device": device, "precision": precision}
    seconds = predicted_seconds(samples, train, test, denoiser, extractor, settings, **of_loss)
    LOGGER.info(
        f"evaluating {len(samples):,} samples, the network in {precision}, takes about "
        f"{duration(seconds)}",
        extra={"predicted": {"evaluation": seconds}},
    )
    metrics: Metrics = {
        "num_samples": len(samples),
        "num_training_images": len(train),
        "num_held_out_images": len(test),
    }
    metrics |= distribution_metrics(
        samples, train, test, extractor, settings.max_images, settings.seed
    )
    memorisation, of_samples, of_test = memorisation_metrics(
        samples, train, test, settings.neighbour_images
    )
    classes, class_counts = class_metrics(train, test, of_samples, of_test)
    denoising, noise_figure = denoising_metrics(
        denoiser,
        train,
        test,
        max_images=settings.denoising_images,
        num_levels=settings.noise_levels,
        batch_size=settings.batch_size,
        **of_loss,
    )
    metrics = _finite(metrics | memorisation | classes | denoising)
    closest = np.argsort(of_samples.distance, kind="stable")[:NUM_CLOSEST]
    diagnostics = {
        "figures": {
            "denoising": noise_figure,
            "nearest_training": distance_figure(
                {"samples": of_samples.distance, "held out": of_test.distance}
            ),
        },
        "closest": [
            {
                "sample": int(sample),
                "training": int(of_samples.index[sample]),
                "distance": float(of_samples.distance[sample]),
            }
            for sample in closest
        ],
        "class_counts": class_counts,
    }
    _log(metrics)
    return metrics, diagnostics


def _finite(metrics: Metrics) -> Metrics:
    """Replace numbers that are none, which JSON cannot say, and give the reason beside them."""
    broken = [n for n, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)]
    for name in broken:
        LOGGER.warning(f"{name} is {metrics[name]}: the model's answers are not finite numbers")
    return (
        metrics
        | dict.fromkeys(broken)
        | {f"skipped_{name}": f"it came out as {metrics[name]}" for name in broken}
    )


def _log(metrics: Mapping[str, Any]) -> None:
    ratio, loss = metrics["frechet_ratio"], metrics["denoising_loss_held_out"]
    LOGGER.info(
        f"Frechet distance {metrics['frechet_distance']:.4g}"
        + (f", {ratio:.2f} times that of real images" if ratio is not None else "")
        + (f"; held-out denoising loss {loss:.4g}" if loss is not None else "")
    )
    if metrics["memorisation_suspected"]:
        LOGGER.warning(
            "samples are closer to training images than held-out images are "
            f"(excess {metrics['memorisation_excess']:.2f}, by chance at most "
            f"{metrics['memorisation_excess_limit']:.2f}): look at the closest pairs in the report"
        )
