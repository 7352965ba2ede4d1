from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from two_classes import drawn, image_set, judged

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.distribution import SCORES
from ddpm_kedro.evaluation.metric_names import explanation
from ddpm_kedro.evaluation.rows import spread
from ddpm_kedro.images.imageset import ImageSet


def test_new_images_of_the_same_kind_score_the_floor() -> None:
    metrics, _ = judged(drawn(250, seed=3)[0])
    for score in SCORES:
        assert abs(metrics[f"{score}_z"]) < 4
        assert metrics[f"{score}_verdict"] == "not distinguishable"  # of 250 images
    assert "pixels_frechet" not in metrics  # the features are pixels
    assert metrics["reference"] == "250 held-out images"
    assert "250 samples" in metrics["verdict"]
    assert not metrics["memorisation_suspected"]
    assert metrics["copies_of_training"] == metrics["duplicate_samples"] == 0
    assert metrics["classes_seen"] == metrics["num_classes"] == 2
    assert metrics["samples_of_dark"] + metrics["samples_of_bright"] == 250
    assert metrics["nearest_label_accuracy"] > 0.99


def test_one_missing_class_costs_distance_and_is_counted() -> None:
    images, labels = drawn(400, seed=3)
    metrics, diagnostics = judged(images[labels == 1])
    assert metrics["mind_verdict"] == "far"
    assert metrics["classes_seen"] == 1
    assert diagnostics["class_counts"]["dark"] == 0


def test_copies_of_training_images_are_flagged(caplog: pytest.LogCaptureFixture) -> None:
    train = image_set(600, seed=1)
    samples = train.images[:200].copy()
    samples[1] = samples[0]
    with caplog.at_level(logging.WARNING):
        metrics, diagnostics = judged(samples)
    assert metrics["memorisation_suspected"]
    assert metrics["memorisation_excess"] == 1.0
    assert metrics["copies_of_training"] == 200
    assert metrics["copies_in_held_out"] == 0
    assert metrics["duplicate_samples"] == 1
    assert metrics["nearest_training_samples_p95"] == 0.0
    assert metrics["nearest_training_held_out_p01"] > 5
    assert diagnostics["closest"][0] == {
        "sample": 0,
        "training": 0,
        "distance": 0.0,
        "grey_levels": 0.0,
        "mirrored": False,
    }
    assert metrics["near_copies"] == 200
    assert "near copies of training images" in caplog.text


def test_noise_is_no_memorisation() -> None:
    samples = np.random.default_rng(4).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    metrics, _ = judged(samples)
    assert metrics["mind_verdict"] == "far"
    assert metrics["memorisation_excess"] == 0.0
    assert not metrics["memorisation_suspected"]


def test_what_labels_are_needed_for_is_skipped_with_a_reason() -> None:
    samples = drawn(20, seed=3)[0]
    bare = ImageSet(image_set(600, seed=1).images)
    metrics, diagnostics = judged(samples, train=bare)
    assert metrics["skipped_classes"] == "the training images have no labels"
    assert diagnostics["class_counts"] == {}
    metrics, _ = judged(samples, test=ImageSet(image_set(30, seed=2).images))
    assert "no labels" in metrics["skipped_nearest_label_accuracy"]
    assert metrics["classes_seen"] == 2


def test_many_classes_are_counted_in_the_diagnostics_alone() -> None:
    images, _ = drawn(60, seed=1)
    train = ImageSet(images, np.arange(60) % 30, tuple(f"c{n}" for n in range(30)))
    metrics, diagnostics = judged(images[:9], train=train)
    assert "too many" in metrics["skipped_samples_of"]
    assert "samples_of_c0" not in metrics
    assert sum(diagnostics["class_counts"].values()) == 9


def test_every_metric_is_explained_and_everything_is_json() -> None:
    metrics, diagnostics = judged(drawn(20, seed=3)[0], train=ImageSet(drawn(50, seed=1)[0]))
    labelled, _ = judged(drawn(20, seed=3)[0])
    for name in metrics | labelled:
        assert len(explanation(name)) > 10
    json.dumps([metrics, diagnostics], allow_nan=False)
    with pytest.raises(KeyError):
        explanation("frechet_distanse")


def test_it_is_a_function_of_its_arguments() -> None:
    samples = drawn(40, seed=3)[0]
    assert judged(samples) == judged(samples)


def test_limits_bound_what_is_looked_at() -> None:
    metrics, diagnostics = judged(drawn(40, seed=3)[0], neighbour_images=5, max_images=12)
    assert sum(diagnostics["class_counts"].values()) == 5
    assert metrics["denoising_images"] == 16
    assert metrics["reference"] == "12 held-out images"
    whole, _ = judged(drawn(12, seed=3)[0])
    assert metrics["mind"] != whole["mind"]  # other samples
    assert metrics["stamp"] == whole["stamp"]  # the same reference


def test_rows_are_taken_evenly() -> None:
    values = np.arange(100)
    np.testing.assert_array_equal(spread(values, 4), [0, 33, 66, 99])
    assert spread(values, None) is values
    assert spread(values, 100) is values


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((5, 1, 8, 8), np.uint8), "different runs"),
        (np.zeros((5, 1, 4, 4), np.float32), "float32"),
        (np.zeros((1, 1, 4, 4), np.uint8), "at least 2 images, not 1"),
    ],
)
def test_samples_that_do_not_belong_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judged(samples)
