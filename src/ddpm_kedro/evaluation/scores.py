"""Scores in four groups: distribution, memorisation, classes, denoising."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.curves import denoising_figure
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

Metrics = dict[str, Any]

FLOOR_DRAWS = 16  # sets of real images whose score is averaged
PERCENTILES = (1, 5, 50, 95)
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
    queries = samples[:max_queries], spread(test.images, max_queries)
    found = nearest_neighbours(np.concatenate(queries), train.images)
    of_samples, of_test = found[: len(queries[0])], found[len(queries[0]) :]
    metrics: Metrics = {}
    for name, distance in (("samples", of_samples.distance), ("held_out", of_test.distance)):
        for percentile in PERCENTILES:
            metrics[f"nearest_training_{name}_p{percentile:02d}"] = float(
                np.percentile(distance, percentile)
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
    precision: str = "fp32",
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
            precision=precision,
            description=f"denoising loss, {name.replace('_', '-')} images",
        )
    held_out, training = losses["held_out"], losses["training"]
    metrics: Metrics = {
        "denoising_loss_held_out": float(held_out.objective.mean()),
        "denoising_loss_training": float(training.objective.mean()),
        "denoising_gap": _relative(held_out.objective.mean(), training.objective.mean()),
        "denoising_eps_loss_held_out": float(held_out.eps.mean()),
    }
    for name, (own, eps) in held_out.by_noise().items():
        metrics[f"denoising_loss_held_out_{name}_noise"] = own
        metrics[f"denoising_eps_loss_held_out_{name}_noise"] = eps
    metrics["denoising_images"] = held_out.num_images
    return metrics, denoising_figure({"held out": held_out, "training": training})


def spread(values: np.ndarray, count: int | None) -> np.ndarray:
    """At most ``count`` of the rows, evenly over the whole, so that sorted classes all occur."""
    if count is None or len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(np.int64)]


def _relative(value: float, reference: float) -> float:
    return float(value / reference - 1) if reference > 0 else float("nan")
