from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ddpm_kedro.evaluation.verdict import RULES, WORDS, training_facts, verdict

GOOD: dict[str, Any] = {
    "num_samples": 2000,
    "reference": "2,000 held-out images",
    "mind_ratio": 1.02,
    "mind_z": 0.4,
    "mind_verdict": "indistinguishable",
    "coverage_z": -0.3,
    "coverage_verdict": "indistinguishable",
    "denoising_loss_held_out": 0.1,
    "denoising_gap": 0.02,
    "copies_of_training": 0,
    "copies_in_held_out": 0,
    "near_copies": 18,
    "near_copies_limit": 40,
    "memorisation_suspected": False,
    "num_classes": 10,
    "classes_seen": 10,
    "nearest_label_accuracy": 0.9,
}
FAR = {"mind_ratio": 15.2, "mind_z": 123.4, "mind_verdict": "far"}
CLOSE = {"mind_ratio": 1.3, "mind_z": 7.0, "mind_verdict": "close"}
LONG = {"images_seen": 50_000_000, "falling": False}


def test_the_whole_of_it_in_two_sentences() -> None:
    assert verdict(GOOD | FAR, {"images_seen": 28_096, "falling": True}) == (
        "The samples are far from real images: MIND is 15.2 times that of as many real images, 123 "
        "deviations above (2,000 samples against 2,000 held-out images). Nothing suggests that "
        "they are copies of training images; what to try next: a higher training.budget_kimg, "
        "because the model was still improving when training ended after 28,096 images."
    )


@pytest.mark.parametrize(
    ("found", "training", "advice"),
    [
        ({"denoising_loss_held_out": None, **FAR}, LONG, "a lower learning rate"),
        ({"copies_of_training": 3}, LONG, "more training images, augmentation=flip"),
        ({"near_copies": 41}, LONG, "more training images, augmentation=flip"),
        ({"memorisation_suspected": True}, LONG, "more training images, augmentation=flip"),
        (
            {"mind_verdict": "better than real images", "mind_z": -6.0},
            LONG,
            "a look at the closest",
        ),
        ({"denoising_gap": 0.25}, LONG, "the network overfits: its loss is 25% larger"),
        (CLOSE, LONG | {"best_was_earlier": True}, "sampling.weights=best"),
        (FAR, LONG | {"falling": True}, "still improving when training ended"),
        (FAR, {"images_seen": 300_000}, "because 300,000 images seen are few"),
        (FAR | {"classes_seen": 7}, LONG, "no sample looks like 3 of the classes"),
        ({"pixels_frechet_z": 30.0, "pixels_frechet_verdict": "far"}, LONG, "colours and bright"),
        ({"coverage_z": 5.0, "coverage_verdict": "close"}, LONG, "vary less than real images"),
        (FAR, None, "fine-tuning on these images with training.init_from"),
        (FAR, LONG, "a larger backbone"),
        (CLOSE, LONG, "a longer training or more sampling.num_steps"),
        ({"num_samples": 1999}, LONG, "sampling.num_samples=2000, because 1,999 samples show"),
        ({}, LONG, "only they would show smaller faults"),
    ],
)
def test_each_finding_has_its_advice(found: dict, training: Any, advice: str) -> None:
    said = verdict(GOOD | found, training)
    assert advice in said.partition("what to try next: ")[2]
    assert ", because " in said
    assert said.count("; what to try next: ") == 1


def test_every_rule_gives_a_reason() -> None:
    assert all(", because " in text for _, text in RULES)


def test_overfitting_is_not_answered_by_longer_training() -> None:
    said = verdict(GOOD | FAR | {"denoising_gap": 0.5}, {"images_seen": 1000, "falling": True})
    assert "budget_kimg" not in said


def test_copies_are_said_and_counted_whatever_the_scores() -> None:
    for others in ({}, FAR, CLOSE, {"mind_verdict": "better than real images"}):
        said = verdict(GOOD | others | {"copies_of_training": 2, "near_copies": 1900}, LONG)
        assert "copied: 1,900 lie nearer to a training image than 99% of new images do" in said
        assert "where chance allows 40, and 2 equal one" in said
        exact = verdict(GOOD | others | {"copies_of_training": 2}, LONG)
        assert "Some are copies: 2 equal a training image" in exact
    assert "as copies would;" in verdict(GOOD | {"memorisation_suspected": True}, LONG)
    # As many as the held-out images have are the data set's own.
    doubled = {"copies_of_training": 4, "copies_in_held_out": 4}
    assert "Nothing suggests" in verdict(GOOD | doubled, LONG)


def test_blurred_samples_are_not_called_copies() -> None:
    said = verdict(GOOD | FAR | {"memorisation_suspected": True}, {"images_seen": 30_000})
    assert "as copies or blur would" in said
    assert "budget_kimg" in said


def test_few_samples_are_said_to_say_little() -> None:
    few = {"num_samples": 300, "mind_verdict": "not distinguishable"}
    said = verdict(GOOD | few, LONG)
    assert said.startswith("So few samples cannot be told from real images, which says little")
    assert "300 samples" in said
    # A missing class is chance among so few.
    assert "classes" not in verdict(GOOD | FAR | {"num_samples": 90, "classes_seen": 8}, LONG)
    # And where the nearest image's class is mostly wrong, nobody knows which are missing.
    unsure = {"classes_seen": 8, "nearest_label_accuracy": 0.35}
    assert "classes" not in verdict(GOOD | FAR | unsure, LONG)


def test_another_score_that_is_worse_is_named_and_noise_is_not() -> None:
    worse = {"recall_z": 34.2, "recall_verdict": "far"}
    assert "but recall is 34.2 deviations off" in verdict(GOOD | worse, LONG)
    assert "recall" not in verdict(GOOD | FAR | worse, LONG)  # far is said already
    noise = {"recall_z": 3.0, "recall_verdict": "close"}
    assert "recall" not in verdict(GOOD | noise, LONG)


def test_what_could_not_be_measured_is_not_made_up() -> None:
    assert verdict({"num_samples": 9}) == (
        "How good the samples are could not be measured (9 samples against real images). Whether "
        "they are copies was not measured."
    )
    lost = {"mind_ratio": None, "mind_z": None, "mind_verdict": None}
    assert "could not be measured (2,000 samples" in verdict(GOOD | lost, LONG)
    assert "MIND lies 0.40 deviations above that" in verdict(GOOD | {"mind_ratio": None}, LONG)


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_a_score_is_known(word: str) -> None:
    assert verdict(GOOD | {"mind_verdict": word}, LONG).startswith(WORDS[word][1])


def test_what_a_training_log_tells() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 40)

    def log(loss: np.ndarray, **scores: list[float]) -> list[dict]:
        records = [{"images_seen": 100 * n, "loss": y} for n, y in enumerate(loss, start=1)]
        for name, values in scores.items():
            for record, value in zip(records[-len(values) :], values, strict=True):
                record[name] = value
        return records

    falls, flat = log(np.linspace(1, 0.5, 40) + noise), log(0.5 + noise)
    assert training_facts(falls, {"images_seen": 1}) == {"images_seen": 4000, "falling": True}
    assert training_facts(flat, {})["falling"] is False
    assert training_facts([], {"images_seen": 7, "seed": 0}) == {"images_seen": 7}
    assert training_facts(falls[:5], {}) == {"images_seen": 500}

    # The score while training outranks the loss.
    passed = log(np.linspace(1, 0.5, 40), quick_score=[90.0, 50.0, 60.0])
    facts = training_facts(passed, {}, weights="ema")
    assert (facts["falling"], facts["best_was_earlier"]) == (False, True)
    assert not training_facts(passed, {}, weights="best")["best_was_earlier"]
    assert training_facts(log(0.5 + noise, quick_score=[9.0, 8.0, 7.0]), {})["falling"]
