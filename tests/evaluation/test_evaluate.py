from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from two_classes import drawn, image_set, judged

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.distribution import SCORES
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.metric_names import explanation
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.rows import spread


def test_new_images_of_the_same_kind_score_the_floor() -> None:
    metrics, diagnostics = judged(drawn(250, seed=3)[0])
    for name in SCORES:
        assert abs(metrics[f"{name}_z"]) < 4
        assert metrics[f"{name}_verdict"] == "not distinguishable"
    assert 0.2 < metrics["mind_ratio"] < 2
    assert (metrics["features"], metrics["reference"]) == (
        "pixels: 6 principal components",
        "250 held-out images",
    )
    assert "pixels_frechet" not in metrics
    assert metrics["stamp"] == diagnostics["scored"]["stamp"]
    assert not metrics["memorisation_suspected"]
    assert metrics["copies_of_training"] == metrics["duplicate_samples"] == 0
    assert metrics["classes_seen"] == metrics["num_classes"] == 2
    assert metrics["samples_of_dark"] + metrics["samples_of_bright"] == 250
    assert metrics["nearest_label_accuracy"] > 0.99
    assert metrics["verdict"].startswith("So few samples cannot be told from real images")


def test_one_missing_class_costs_distance_and_is_counted() -> None:
    images, labels = drawn(400, seed=3)
    metrics, diagnostics = judged(images[labels == 1])
    assert metrics["mind_ratio"] > 10
    assert metrics["mind_verdict"] == "far"
    assert metrics["classes_seen"] == 1
    assert diagnostics["class_counts"]["dark"] == 0


def test_copies_of_training_images_are_flagged(caplog: pytest.LogCaptureFixture) -> None:
    train = image_set(600, seed=1)
    samples = train.images[:200].copy()
    samples[1] = samples[0]
    with caplog.at_level(logging.INFO):
        metrics, diagnostics = judged(samples)
    assert metrics["memorisation_suspected"]
    assert metrics["memorisation_excess"] == 1.0
    assert metrics["copies_of_training"] == metrics["near_copies"] == 200
    assert metrics["copies_in_held_out"] == 0
    assert metrics["duplicate_samples"] == 1
    assert metrics["nearest_training_samples_p95"] == 0.0
    assert metrics["nearest_training_held_out_p01"] > 5
    pair = {"sample": 0, "training": 0, "distance": 0.0, "grey_levels": 0.0, "mirrored": False}
    assert diagnostics["closest"][0] == pair
    assert "near copies of training images" in caplog.text
    assert f"{metrics['verdict']} (MIND " in caplog.text


def test_noise_is_no_memorisation() -> None:
    samples = np.random.default_rng(4).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    metrics, _ = judged(samples)
    assert metrics["mind_ratio"] > 10
    assert metrics["memorisation_excess"] == 0.0
    assert not metrics["memorisation_suspected"]


class Sums(FeatureExtractor):
    """What a network is to an evaluation: the sums of rows, which a mirror does not change."""

    identity = "sums"
    calls = 0

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        Sums.calls += 1
        yield images.sum(axis=(1, 3)).astype(np.float32)


class Broken(Sums):
    identity = "broken"

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        yield np.full((len(images), 4), np.nan, np.float32)


def test_copies_are_found_in_features_where_these_are_a_networks(tmp_path: Path) -> None:
    train, samples = image_set(600, seed=1), drawn(200, seed=3)[0]
    samples[::10] = train.images[50:70, :, :, ::-1]
    store = FeatureStore(tmp_path)
    network = {"features": {"type": f"{__name__}.Sums"}}
    metrics, diagnostics = judged(samples, store=store, **network)
    assert metrics["near_copies"] > metrics["near_copies_limit"]
    assert metrics["pixels_near_copies"] >= 20
    assert metrics["mirrored_copies_of_training"] == 20
    assert metrics["copies_of_training"] == 0
    assert [pair["mirrored"] for pair in diagnostics["closest"]] == [True] * 8
    for pair in diagnostics["closest"]:
        assert pair["training"] == 50 + pair["sample"] / 10
        assert pair["grey_levels"] == 0.0
    assert all(np.isfinite(metrics[name]) for name in ("pixels_frechet", "pixels_frechet_z"))
    assert "nearest_training_features" in diagnostics["figures"]
    for name in metrics:
        assert len(explanation(name)) > 10
    made = Sums.calls
    again, _ = judged(samples, store=store, **network)
    assert again == metrics
    assert Sums.calls <= made + 2 * 4  # of the little parts that are timed, and no more


def test_too_few_held_out_images_leave_the_reference_to_training_images() -> None:
    train, test, samples = image_set(600, seed=1), image_set(30, seed=2), drawn(100, seed=3)[0]
    network = {"features": {"type": f"{__name__}.Sums"}}
    metrics, diagnostics = judged(samples, test=test, **network)
    assert metrics["reference"] == "100 training images"
    assert not metrics["memorisation_suspected"]  # the held-out images still stand against
    figure = diagnostics["figures"]["nearest_training_features"]
    assert [len(curve["x"]) for curve in figure["data"]] == [100, 30]
    for pair in diagnostics["closest"]:  # the rows are those of the images that were compared
        images = (samples[pair["sample"]], train.images[pair["training"]])
        ours, other = (image.sum(axis=(0, 2), dtype=float) for image in images)
        assert pair["distance"] == pytest.approx(np.linalg.norm(ours - other))


def test_features_that_are_not_finite_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="not finite") as caught:
        judged(drawn(20, seed=3)[0], features={"type": f"{__name__}.Broken"})
    assert "\n" not in str(caught.value)


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
        explanation("mindd")


def test_it_is_a_function_of_its_arguments() -> None:
    samples = drawn(40, seed=3)[0]
    assert judged(samples) == judged(samples)


def test_limits_bound_what_is_looked_at() -> None:
    metrics, diagnostics = judged(drawn(40, seed=3)[0], neighbour_images=5, max_images=12)
    assert sum(diagnostics["class_counts"].values()) == 5
    assert metrics["denoising_images"] == 16
    assert metrics["reference"] == "12 held-out images"
    assert metrics["stamp"] != judged(drawn(40, seed=3)[0])[0]["stamp"]


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
