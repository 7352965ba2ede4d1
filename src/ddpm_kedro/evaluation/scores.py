"""Scores in four groups: distribution, memorisation, classes, denoising."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.curves import denoising_figure
from ddpm_kedro.evaluation.denoising_loss import DenoisingLoss, denoising_loss
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor, features_of
from ddpm_kedro.evaluation.frechet import Gaussian, expected_bias, frechet_distance
from ddpm_kedro.evaluation.memorisation import (
    Neighbours,
    count_duplicates,
    excess_closeness,
    kolmogorov_smirnov,
    nearest_neighbours,
)
from ddpm_kedro.evaluation.rows import spread
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
    sets = {"samples": samples, "train_images": train.images, "test_images": test.images}
    for name, images in sets.items():
        if images.dtype != np.uint8 or images.shape[1:] != train.images.shape[1:]:
            raise InputError(
                f"{name} are {images.dtype} {images.shape[1:]}, train_images are uint8 "
                f"{train.images.shape[1:]}: they come from different runs; run the stages again"
            )
    for name, images in sets.items():
        if len(images) < 2:
            raise InputError(f"{name}: an evaluation needs at least 2 images, not {len(images)}")


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
    drawn = features_of(extractor, samples[:max_images])  # (n, d)
    real = features_of(extractor, chosen)
    held_out = Gaussian.of([features_of(extractor, spread(test.images, max_images))])
    distance = frechet_distance(Gaussian.of([drawn]), held_out)
    count = min(len(drawn), len(real))
    floors = [
        frechet_distance(Gaussian.of([part]), held_out) for part in real_sets(real, count, seed)
    ]
    floor = float(np.mean(floors))
    return {
        "features": extractor.identity,
        "frechet_distance": distance,
        "frechet_floor": floor,
        "frechet_floor_std": float(np.std(floors)),
        "frechet_floor_expected": expected_bias(
            np.cov(real, rowvar=False).reshape(real.shape[1], -1), count, held_out.count
        ),
        "frechet_ratio": distance / floor if floor > 0 else None,
    }


def real_sets(real: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield random sets of `count` rows of `real`: what a perfect model's samples would be."""
    generator = np.random.default_rng(seed)
    for _ in range(1 if count == len(real) else FLOOR_DRAWS):
        yield real[generator.permutation(len(real))[:count]]


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
        for percent, value in zip(PERCENTILES, np.percentile(distance, PERCENTILES), strict=True):
            metrics[f"nearest_training_{name}_p{percent:02d}"] = float(value)
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
    max_images: int,
    **of_loss: Any,
) -> tuple[Metrics, dict[str, Any]]:
    """Denoising loss on held-out and on training images, the same noise for both.

    `of_loss` are the arguments by name of :func:`denoising_loss`. Returns the metrics and a figure
    of the error against the level of noise.
    """

    def measured(images: ImageSet, name: str) -> DenoisingLoss:
        labels = None if images.labels is None else spread(images.labels, max_images)
        chosen = spread(images.images, max_images)
        description = f"denoising loss, {name} images"
        return denoising_loss(denoiser, chosen, labels, description=description, **of_loss)

    held_out, training = measured(test, "held-out"), measured(train, "training")
    metrics: Metrics = {
        "denoising_loss_held_out": float(held_out.objective.mean()),
        "denoising_loss_training": float(training.objective.mean()),
        "denoising_gap": float(held_out.objective.mean() / training.objective.mean() - 1)
        if training.objective.mean() > 0
        else float("nan"),
        "denoising_eps_loss_held_out": float(held_out.eps.mean()),
    }
    for name, (own, eps) in held_out.by_noise().items():
        metrics[f"denoising_loss_held_out_{name}_noise"] = own
        metrics[f"denoising_eps_loss_held_out_{name}_noise"] = eps
    metrics["denoising_images"] = held_out.num_images
    return metrics, denoising_figure({"held out": held_out, "training": training})
