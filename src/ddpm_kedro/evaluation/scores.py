"""Scores in four groups: distribution, memorisation, classes, denoising."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.curves import denoising_figure
from ddpm_kedro.evaluation.denoising_loss import DenoisingLoss, denoising_loss
from ddpm_kedro.evaluation.distribution import SCORES, distribution_scores
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features import FeatureExtractor, PrincipalComponents
from ddpm_kedro.evaluation.memorisation import (
    Closeness,
    copies,
    count_duplicates,
    excess_closeness,
    feature_closeness,
    pixel_closeness,
)
from ddpm_kedro.evaluation.set_features import SetFeatures
from ddpm_kedro.evaluation.sets import ComparedSets
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread

Metrics = dict[str, Any]

PERCENTILES = (1, 5, 50, 95)
MOST_CLASSES = 20  # beyond this many, counts per class stay out of the flat metrics


def check_shapes(samples: np.ndarray, train: ImageSet, test: ImageSet) -> None:
    """InputError where samples, training images and held-out images are not uint8 (N, C, H, W) of
    one shape, or one of them has fewer than two."""
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
    extractor: FeatureExtractor,
    sets: ComparedSets,
    test: ImageSet,
    seed: int = 0,
    device: torch.device | str = "cpu",
    store: FeatureStore | None = None,
) -> tuple[Metrics, SetFeatures]:
    """Scores of the samples' features, each beside what real images score; where these are no
    pixels, the Frechet distance of pixels besides. Returns the metrics and the features."""
    features = SetFeatures.made(extractor, sets, test, store)
    metrics = _scored(features, seed, device)
    if not extractor.uses_pixels:
        pixels = SetFeatures.made(PrincipalComponents(), sets, test)
        metrics |= _scored(pixels, seed, device, ("frechet",), "pixels_")
    return metrics | {"features": extractor.identity, "reference": sets.reference_name}, features


def _scored(
    features: SetFeatures,
    seed: int,
    device: torch.device | str,
    names: tuple[str, ...] = SCORES,
    prefix: str = "",
) -> Metrics:
    if torch.device(device).type != "cuda":  # MPS has no float64
        device = "cpu"
    drawn, reference, pool = features.samples, features.reference, features.pool
    found = distribution_scores(drawn, reference, pool, seed, names=names, device=device)
    metrics: Metrics = {}
    for name, standing in found.items():
        metrics |= standing.metrics(f"{prefix}{name}")
    return metrics


def memorisation_metrics(
    samples: np.ndarray,
    train: ImageSet,
    test: ImageSet,
    most: int,
    device: torch.device | str = "cpu",
    features: SetFeatures | None = None,
    sets: ComparedSets | None = None,
) -> tuple[Metrics, dict[str, Closeness]]:
    """Whether samples lie nearer to training images than held-out images do.

    In pixels at most `most` samples and held-out images are looked up among all training images,
    also mirrored; in `features` of a network, where they are given, those of `sets`. Returns the
    metrics and the nearest training images: in `pixels`, `pixels as they are`, and `features`.
    """
    plain, mirrored = pixel_closeness(samples, train, test, most, device)
    found = {"pixels": plain.or_mirrored(mirrored), "pixels as they are": plain}
    metrics: Metrics = {}
    if features is not None and sets is not None:
        found["features"] = feature_closeness(features, sets, len(samples), len(test), device)
        metrics |= found["features"].near_copies() | found["pixels"].near_copies("pixels_")
    else:
        metrics |= found["pixels"].near_copies()
    of_samples, of_test = found["pixels"].samples.distance, found["pixels"].held_out.distance
    for name, distance in (("samples", of_samples), ("held_out", of_test)):
        for percent, value in zip(PERCENTILES, np.percentile(distance, PERCENTILES), strict=True):
            metrics[f"nearest_training_{name}_p{percent:02d}"] = float(value)
    metrics |= copies(plain, mirrored)
    metrics |= {
        "memorisation_excess": excess_closeness(of_samples, of_test),
        "duplicate_samples": count_duplicates(samples),
        "memorisation_suspected": any(
            metrics.get(f"{prefix}near_copies", 0) > metrics.get(f"{prefix}near_copies_limit", 0)
            for prefix in ("", "pixels_")
        ),
    }
    return metrics, found


def class_metrics(
    train: ImageSet, test: ImageSet, closeness: Closeness
) -> tuple[Metrics, dict[str, int]]:
    """How many samples look like each class: the class of their nearest training image.

    `nearest_label_accuracy` is how often that rule is right on held-out images, which says how
    far the counts can be trusted. Returns the metrics and the counts by class name.
    """
    if train.labels is None or not train.classes:
        return {"skipped_classes": "the training images have no labels"}, {}
    found = np.bincount(train.labels[closeness.samples.index], minlength=len(train.classes))
    counts = {name: int(count) for name, count in zip(train.classes, found, strict=True)}
    metrics: Metrics = {"classes_seen": int((found > 0).sum()), "num_classes": len(counts)}
    if test.labels is None:
        metrics["skipped_nearest_label_accuracy"] = "the held-out images have no labels"
    else:
        right = train.labels[closeness.held_out.index] == test.labels[closeness.held_out_rows]
        metrics["nearest_label_accuracy"] = float(right.mean())
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

    `of_loss` are the arguments by name of `denoising_loss`. Returns the metrics and a figure
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
