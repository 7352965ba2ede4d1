"""The whole evaluation: from samples, images and a model to one flat table of numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.curves import denoising_figure, distance_figure
from ddpm_kedro.evaluation.denoising_loss import denoising_loss
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.frechet import Gaussian, expected_bias, frechet_distance
from ddpm_kedro.evaluation.memorisation import (
    Neighbours,
    count_duplicates,
    excess_closeness,
    kolmogorov_smirnov,
    nearest_neighbours,
)
from ddpm_kedro.images.imageset import ImageSet

logger = logging.getLogger(__name__)

Metrics = dict[str, Any]

FLOOR_DRAWS = 16  # sets of real images whose score is averaged
PERCENTILES = (1, 5, 50, 95)
NUM_CLOSEST = 8  # pairs of sample and training image that a report shows
MOST_CLASSES = 20  # beyond this many, counts per class stay out of the flat metrics


def check_shapes(samples: np.ndarray, train: ImageSet, test: ImageSet) -> None:
    """Refuse what cannot be compared.

    Raises:
        InputError: samples, training images and held-out images are not uint8 (N, C, H, W) of one
            shape, or one of them is empty.
    """
    for name, images in (("samples", samples), ("test_images", test.images)):
        if images.dtype != np.uint8 or images.shape[1:] != train.images.shape[1:]:
            raise InputError(
                f"{name} are {images.dtype} {images.shape[1:]}, train_images are uint8 "
                f"{train.images.shape[1:]}: they come from different runs; run the stages again"
            )
    for name, count in (
        ("samples", len(samples)),
        ("train_images", len(train)),
        ("test_images", len(test)),
    ):
        if count < 2:
            raise InputError(f"{name}: an evaluation needs at least 2 images, not {count}")


def distribution_metrics(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    extractor: FeatureExtractor,
    max_images: int | None = None,
    seed: int = 0,
) -> Metrics:
    """Frechet distance of samples against held-out images, and what real images would score.

    The floor is the mean distance of random sets of training images, as many as there are samples,
    to the same held-out images: the score of a perfect model. ``extractor`` is fitted on the
    training images. ``max_images`` bounds how many of each set are used.
    """
    chosen = spread(train.images, max_images)
    extractor.fit(chosen)
    drawn = np.concatenate(list(extractor.features(samples[:max_images])))  # (n, d)
    real = np.concatenate(list(extractor.features(chosen)))
    held_out = Gaussian.of(extractor.features(spread(test.images, max_images)))
    distance = frechet_distance(Gaussian.of([drawn]), held_out)
    generator = np.random.default_rng(seed)
    count = min(len(drawn), len(real))
    draws = 1 if count == len(real) else FLOOR_DRAWS
    floors = [
        frechet_distance(
            Gaussian.of([real[generator.permutation(len(real))[:count]]]),
            held_out,
        )
        for _ in range(draws)
    ]
    floor = float(np.mean(floors))
    return {
        "features": extractor.name,
        "frechet_distance": distance,
        "frechet_floor": floor,
        "frechet_floor_std": float(np.std(floors)),
        "frechet_floor_expected": expected_bias(
            np.cov(real, rowvar=False).reshape(real.shape[1], -1), count, held_out.count
        ),
        "frechet_ratio": distance / floor if floor > 0 else None,
    }


def memorisation_metrics(
    samples: np.ndarray, train: ImageSet, test: ImageSet, max_queries: int
) -> tuple[Metrics, Neighbours, Neighbours]:
    """Distances of samples to their nearest training image, against those of held-out images.

    At most ``max_queries`` samples and as many held-out images are looked up, against all training
    images. Returns the metrics, and the neighbours of the samples and of the held-out images.
    """
    of_samples = nearest_neighbours(samples[:max_queries], train.images)
    of_test = nearest_neighbours(spread(test.images, max_queries), train.images)
    metrics: Metrics = {}
    for name, found in (("samples", of_samples), ("held_out", of_test)):
        for percentile in PERCENTILES:
            metrics[f"nearest_training_{name}_p{percentile:02d}"] = float(
                np.percentile(found.distance, percentile)
            )
    first, second = len(of_samples.distance), len(of_test.distance)
    excess = excess_closeness(of_samples.distance, of_test.distance)
    # One-sided test of Smirnov for two samples: P(excess > x) ~ exp(-2 x^2 nm / (n + m)).
    limit = float(np.sqrt(np.log(1000) / 2 * (first + second) / (first * second)))
    copies = int((of_samples.distance == 0).sum())
    metrics |= {
        "memorisation_excess": excess,
        "memorisation_excess_limit": limit,
        "memorisation_ks": kolmogorov_smirnov(of_samples.distance, of_test.distance),
        "copies_of_training": copies,
        "copies_in_held_out": int((of_test.distance == 0).sum()),
        "duplicate_samples": count_duplicates(samples),
        "memorisation_suspected": excess > limit,
    }
    return metrics, of_samples, of_test


def class_metrics(
    train: ImageSet, test: ImageSet, of_samples: Neighbours, of_test: Neighbours
) -> tuple[Metrics, dict[str, int]]:
    """How many samples look like each class: the class of their nearest training image.

    ``nearest_label_accuracy`` is how often that rule is right on held-out images, which says how
    far the counts can be trusted. Returns the metrics and the counts by class name.
    """
    if train.labels is None or not train.classes:
        return {"skipped_classes": "the training images have no labels"}, {}
    found = np.bincount(train.labels[of_samples.index], minlength=len(train.classes))
    counts = {name: int(count) for name, count in zip(train.classes, found, strict=True)}
    metrics: Metrics = {"classes_seen": int((found > 0).sum()), "num_classes": len(counts)}
    if test.labels is None:
        metrics["skipped_nearest_label_accuracy"] = "the held-out images have no labels"
    else:
        labels = spread(test.labels, len(of_test.index))
        metrics["nearest_label_accuracy"] = float((train.labels[of_test.index] == labels).mean())
    if len(counts) <= MOST_CLASSES:
        metrics |= {f"samples_of_{name}": count for name, count in counts.items()}
    else:
        metrics["skipped_samples_of"] = (
            f"{len(counts)} classes are too many for one number each; see diagnostics"
        )
    return metrics, counts


def denoising_metrics(
    denoiser: Denoiser,
    train: ImageSet,
    test: ImageSet,
    *,
    max_images: int,
    num_levels: int,
    batch_size: int,
    seed: int,
    device: torch.device | str,
) -> tuple[Metrics, dict[str, Any]]:
    """Denoising loss on held-out and on training images, the same noise for both.

    Returns the metrics and a figure of the error against the level of noise.
    """
    losses = {}
    for name, images in (("held_out", test), ("training", train)):
        labels = images.labels if denoiser.num_classes is not None else None
        losses[name] = denoising_loss(
            denoiser,
            spread(images.images, max_images),
            None if labels is None else spread(labels, max_images),
            num_levels=num_levels,
            seed=seed,
            batch_size=batch_size,
            device=device,
            description=f"denoising loss, {name.replace('_', '-')} images",
        )
    held_out, training = losses["held_out"], losses["training"]
    metrics: Metrics = {
        "denoising_loss_held_out": float(held_out.objective.mean()),
        "denoising_loss_training": float(training.objective.mean()),
        "denoising_gap": float(held_out.objective.mean() / training.objective.mean() - 1),
        "denoising_eps_loss_held_out": float(held_out.eps.mean()),
    }
    for name, (own, eps) in held_out.by_noise().items():
        metrics[f"denoising_loss_held_out_{name}_noise"] = own
        metrics[f"denoising_eps_loss_held_out_{name}_noise"] = eps
    metrics["denoising_images"] = held_out.num_images
    return metrics, denoising_figure({"held out": held_out, "training": training})


def evaluate(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    denoiser: Denoiser,
    *,
    extractor: FeatureExtractor,
    max_images: int | None = None,
    neighbour_images: int = 2048,
    denoising_images: int = 256,
    num_levels: int = 12,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Metrics, dict[str, Any]]:
    """Judge samples and the model they come from.

    Args:
        samples: uint8 (N, C, H, W), values 0..255, in the order they were drawn.
        train, test: the images the model learned from, and those it never saw.
        denoiser: of the model.
        extractor: features that the Frechet distance compares; fitted here.
        max_images: images of each set used for it; None takes all.
        neighbour_images: samples, and held-out images, whose nearest training image is searched.
        denoising_images: images of each split on which the denoising loss is measured.
        num_levels: levels of noise of the denoising loss.
        batch_size: images in one forward pass of the network.
        seed: of the noise and of the floor's draws.
        device: where the network runs.

    Returns:
        ``metrics``, a flat dict of numbers (and a text ``skipped_*`` for what could not be done),
        explained in :mod:`ddpm_kedro.evaluation.metric_names`; and ``diagnostics``, plain data for
        a report: ``figures`` (Plotly dicts), ``closest`` pairs, ``class_counts``.

    Raises:
        InputError: the sets do not belong together, see :func:`check_shapes`.
    """
    check_shapes(samples, train, test)
    metrics: Metrics = {
        "num_samples": len(samples),
        "num_training_images": len(train),
        "num_held_out_images": len(test),
    }
    metrics |= distribution_metrics(samples, train, test, extractor, max_images, seed)
    memorisation, of_samples, of_test = memorisation_metrics(samples, train, test, neighbour_images)
    classes, class_counts = class_metrics(train, test, of_samples, of_test)
    denoising, noise_figure = denoising_metrics(
        denoiser,
        train,
        test,
        max_images=denoising_images,
        num_levels=num_levels,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    metrics |= memorisation | classes | denoising
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


def spread(values: np.ndarray, count: int | None) -> np.ndarray:
    """At most ``count`` of the rows, evenly over the whole, so that sorted classes all occur."""
    if count is None or len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)]


def _log(metrics: Mapping[str, Any]) -> None:
    ratio = metrics["frechet_ratio"]
    logger.info(
        f"Frechet distance {metrics['frechet_distance']:.4g}"
        + (f", {ratio:.2f} times that of real images" if ratio is not None else "")
        + f"; held-out denoising loss {metrics['denoising_loss_held_out']:.4g}"
    )
    if metrics["memorisation_suspected"]:
        logger.warning(
            "samples are closer to training images than held-out images are "
            f"(excess {metrics['memorisation_excess']:.2f}, by chance at most "
            f"{metrics['memorisation_excess_limit']:.2f}): look at the closest pairs in the report"
        )
