"""Nothing is judged or reported beside what it does not belong to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from two_classes import drawn, image_set

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.cards import (
    IMPORTED,
    check_evaluation,
    check_samples,
    evaluation_card,
    has_training_log,
    samples_card,
)

SAMPLES = drawn(6, seed=3)[0]
TRAIN = image_set(20, seed=1)
SCORED = {"stamp": "0123456789ab", "features": "pixels: 4 principal components", "n": 6}
METRICS = {"mind": 0.1 + 0.2, "num_samples": 6, "features": "pca", "none": None}


def model(content: str = "a", weights: str = "ema", images: str | None = None) -> Model:
    made = Model.create(
        backbone={
            "type": "ddpm_kedro.diffusion.backbones.CompactUNet",
            "base_channels": 8,
            "channel_mults": [1],
            "attention_levels": [],
        },
        noise_schedule={"type": "ddpm_kedro.diffusion.noise_schedule.CosineSchedule"},
        objective={"type": "ddpm_kedro.diffusion.objective.VPrediction"},
        image_shape=TRAIN.image_shape,
        provenance={} if images is None else {"images": images},
    )
    made.identity = {"model": content, "weights": weights}
    return made


def altered(array: np.ndarray) -> np.ndarray:
    other = array.copy()
    other[-1, -1, -1, -1] ^= 1
    return other


@pytest.mark.parametrize("images", [None, TRAIN.content_hash])
def test_a_models_own_samples_pass(images: str | None) -> None:
    card = samples_card(SAMPLES, model(), seed=5)
    assert card["seed"] == 5
    check_samples(card, SAMPLES, model(images=images), TRAIN)


@pytest.mark.parametrize(
    ("judged", "samples", "words"),
    [
        (model("b"), SAMPLES, "another model"),
        (model(weights="raw"), SAMPLES, "the weights ema, not raw"),
        (model(), altered(SAMPLES), "not those of their card"),
        (model(), SAMPLES.reshape(3, 2, *SAMPLES.shape[1:]), "not those of their card"),
        (model(images="others"), SAMPLES, "other images than train_images"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_a_command(
    judged: Model, samples: np.ndarray, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_samples(samples_card(SAMPLES, model()), samples, judged, TRAIN)
    assert "`kedro run --pipelines" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_without_content_is_refused() -> None:
    with pytest.raises(InputError, match="sampling,evaluation"):
        check_samples({}, SAMPLES, model(), TRAIN)


def test_one_evaluation_passes() -> None:
    evaluated = evaluation_card(samples_card(SAMPLES, model()), METRICS, TRAIN, SCORED)
    check_evaluation(evaluated, SAMPLES, dict(reversed(METRICS.items())), TRAIN)


def test_the_stamp_says_how_samples_were_made_and_scored() -> None:
    card = samples_card(SAMPLES, model(), sampler={"type": "DDIM", "num_steps": 7}, seed=5)
    stamp = evaluation_card(card, METRICS, TRAIN, SCORED)["stamp"]
    assert SCORED.items() <= stamp.items()
    assert (stamp["model"], stamp["weights"], stamp["steps"], stamp["seed"]) == ("a", "ema", 7, 5)


def test_an_evaluation_of_an_earlier_version_is_refused() -> None:
    evaluated = evaluation_card(samples_card(SAMPLES, model()), METRICS, TRAIN, SCORED)
    del evaluated["stamp"]
    with pytest.raises(InputError, match=r"earlier version.*kedro run --pipelines evaluation"):
        check_evaluation(evaluated, SAMPLES, METRICS, TRAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": altered(SAMPLES)},
        {"metrics": {**METRICS, "num_samples": 7}},
        {"train": image_set(20, seed=2)},
        {"evaluated": {}},
    ],
)
def test_parts_of_two_evaluations_are_refused(change: dict[str, Any]) -> None:
    arguments = {
        "evaluated": evaluation_card(samples_card(SAMPLES, model()), METRICS, TRAIN, SCORED),
        "samples": SAMPLES,
        "metrics": METRICS,
        "train": TRAIN,
    }
    with pytest.raises(InputError, match="kedro run --pipelines evaluation"):
        check_evaluation(**{**arguments, **change})


def test_a_log_is_shown_beside_its_own_model_only() -> None:
    assert has_training_log({"model": "a", "status": "done"}, "a")
    assert not has_training_log({"model": "a", "status": IMPORTED}, "a")
    assert not has_training_log(None, "a")
    with pytest.raises(InputError, match="another model than the metrics"):
        has_training_log({"model": "b", "status": "done"}, "a")
    with pytest.raises(InputError, match="another model than the metrics"):
        has_training_log({"model": "b", "status": IMPORTED}, "a")
