"""Quick scores choose the best weights and touch nothing else of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import (
    assert_same_bits,
    last_tensors,
    run,
    run_until,
    tiny_images,
    tiny_settings,
    untimed_log,
)

from ddpm_kedro.diffusion.model import Model, load_model
from ddpm_kedro.diffusion.model_file import read_model_file
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.quick_score import NUM_IMAGES, QuickScore
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import TrainingReceipts, model_spec

SCORED: dict[str, Any] = {
    "score_every_kimg": 0.04,  # every 5 steps, not all of which have a record anyway
    "backbone": {"type": "tiny_training.TinyNetwork", "dropout": 0.5},
}
UNSCORED = SCORED | {"score_every_kimg": None}
WSD = {"type": "ddpm_kedro.training.lr_schedule.WarmupStableDecay", "decay_share": 0.3}


def scores(receipts: TrainingReceipts) -> dict[int, float]:
    """The quick scores in a log, by step."""
    log = untimed_log(receipts)
    return {record["step"]: record["quick_score"] for record in log if "quick_score" in record}


def weights(receipts: TrainingReceipts, name: str) -> dict[str, torch.Tensor]:
    _, tensors = read_model_file(receipts.model.path)
    own = {key: value for key, value in tensors.items() if key.startswith(f"{name}/")}
    return {key.removeprefix(f"{name}/"): value for key, value in own.items()}


def given(monkeypatch: pytest.MonkeyPatch, score_at: Callable[[Any], float]) -> None:
    """Have scores be a function of the settings and the images seen instead of the samples."""
    start = QuickScore.__init__

    def noting(self: QuickScore, images: Any, rows: Any, state: LearningState) -> None:
        start(self, images, rows, state)
        self.state = state

    monkeypatch.setattr(QuickScore, "__init__", noting)
    monkeypatch.setattr(QuickScore, "__call__", lambda self, *_, **__: score_at(self.state))


def test_weights_are_bit_for_bit_those_of_a_training_without(tmp_path: Path) -> None:
    scored, plain = run(tmp_path / "scored", **SCORED), run(tmp_path / "plain", **UNSCORED)
    assert list(scores(scored)) == [5, 10, 15, 16]
    found = last_tensors(scored)
    assert_same_bits({k: v for k, v in found.items() if k[:5] != "best/"}, last_tensors(plain))
    for name in ("raw", "ema"):
        assert_same_bits(weights(scored, name), weights(plain, name))
    kept = [record["step"] for record in untimed_log(plain)]
    without = [dict(record) for record in untimed_log(scored) if record["step"] in kept]
    for record in without:
        record.pop("quick_score", None)
    assert without == untimed_log(plain)


def test_a_score_leaves_state_modes_and_generators(tmp_path: Path) -> None:
    settings, images = tiny_settings(**SCORED), tiny_images()
    state = LearningState(Model(model_spec(images, settings)), settings)
    state.network.train()
    score = QuickScore(images.images, np.arange(4), state)
    before = {name: value.clone() for name, value in state.tensors().items()}
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    assert score() == score() > 0
    assert_same_bits(before, state.tensors())
    assert torch.equal(torch.get_rng_state(), generator)
    assert state.network.training


@pytest.mark.parametrize("step", [4, 5, 8, 12, 15])
def test_a_resumed_training_scores_the_same(tmp_path: Path, step: int) -> None:
    whole = run(tmp_path / "whole", **SCORED)
    run_until(tmp_path / "parts", step, **SCORED)
    parts = run(tmp_path / "parts", **SCORED)
    assert untimed_log(parts) == untimed_log(whole)
    assert_same_bits(last_tensors(parts), last_tensors(whole))
    assert parts.model.path.read_bytes() == whole.model.path.read_bytes()


def test_best_are_the_averaged_weights_at_the_lowest_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, lambda state: abs(state.images_seen - 80) + 1)
    whole, upto = run(tmp_path / "whole", **SCORED), run(tmp_path / "upto", **SCORED | {
        "budget_kimg": 0.08, "score_every_kimg": None,
    })  # fmt: skip
    assert scores(whole) == {5: 41, 10: 1, 15: 41, 16: 49}
    assert_same_bits(weights(whole, "best"), weights(upto, "ema"))
    best = load_model(whole.model.path, "best", trusted_modules=("tiny_training",))
    assert best.identity["weights"] == "best"
    assert best.spec.provenance["best_images_seen"] == 80


def test_where_the_last_state_is_the_best_there_is_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, lambda state: 1 / state.images_seen)
    receipts = run(tmp_path, **SCORED)
    assert not weights(receipts, "best")
    best = load_model(receipts.model.path, "best", trusted_modules=("tiny_training",))
    assert best.identity["weights"] == "ema"


def test_best_of_a_training_without_scores_is_refused_with_what_there_is(tmp_path: Path) -> None:
    receipts = run(tmp_path, **UNSCORED)
    with pytest.raises(
        InputError, match=r"no weights 'best' \(its training made no quick scores.*ema, ema_.*raw"
    ):
        load_model(receipts.model.path, "best", trusted_modules=("tiny_training",))


@pytest.mark.parametrize("kimg", [(0.12, 0.2), (0.1, 0.13, 0.2)])
@pytest.mark.parametrize("lr_schedule", [WSD, {"type": "ddpm_kedro.Constant"}])
def test_budgets_in_turn_choose_as_the_highest_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kimg: tuple[float, ...], lr_schedule: Any
) -> None:
    """Although ends, and what the lower ones come to while their rates fall, score lowest."""

    def score(state: LearningState) -> float:
        seen, settings = state.images_seen, state.settings
        fell = seen > settings.settled_images and settings.budget_kimg != 0.2
        return 0.0 if seen % 40 or fell else 1.0 + seen

    given(monkeypatch, score)
    choices = SCORED | {"lr_schedule": lr_schedule}
    whole = run(tmp_path / "whole", **choices, budget_kimg=0.2)
    for budget_kimg in kimg:
        parts = run(tmp_path / "parts", **choices, budget_kimg=budget_kimg)
    assert parts.model.path.read_bytes() == whole.model.path.read_bytes()


def test_a_best_state_that_is_not_come_to_again_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, lambda state: {40: 2.0, 80: 1.0}.get(state.images_seen, 3.0))
    run_until(tmp_path, 13, **SCORED)  # past the best state, at step 10
    (newest,) = tmp_path.glob("*/checkpoints/step_*13")
    for file in newest.iterdir():  # as if the process had died before this one
        file.unlink()
    newest.rmdir()
    early = run(tmp_path, **SCORED, max_minutes=1e-9)
    assert early.model.facts["images_seen"] == 72
    assert not early.model.facts["finished"]  # the same command goes on
    assert weights(early, "best").keys() == weights(early, "ema").keys()
    assert read_model_file(early.model.path)[0]["spec"]["provenance"]["best_images_seen"] == 40
    later = run(tmp_path, **SCORED)
    assert read_model_file(later.model.path)[0]["spec"]["provenance"]["best_images_seen"] == 80


def test_scores_of_other_features_do_not_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, lambda state: float(state.images_seen))
    run_until(tmp_path, 13, **SCORED)
    other = {"type": "ddpm_kedro.PrincipalComponents", "num_components": 3}
    caplog.set_level("INFO", logger="ddpm_kedro")
    receipts = run(tmp_path, **SCORED, features=other)
    assert "the best weights are looked for anew" in caplog.text
    assert read_model_file(receipts.model.path)[0]["spec"]["provenance"]["best_images_seen"] == 120


def test_the_reference_is_held_out_where_that_is_enough() -> None:
    settings = tiny_settings(**SCORED)
    images = tiny_images(4 * NUM_IMAGES).images.copy()
    held_out = np.arange(NUM_IMAGES, dtype=np.int32)
    images[held_out] = 255
    state = LearningState(Model(model_spec(ImageSet(images), settings)), settings)
    assert np.ptp(QuickScore(images, held_out, state)._reference, axis=0).max() < 1e-6
    assert np.ptp(QuickScore(images, held_out[1:], state)._reference, axis=0).max() > 1


def test_too_few_images_train_without_a_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ddpm_kedro")
    receipts = run(tmp_path, images=tiny_images(9), **SCORED)
    assert "no quick scores: 9 training images are too few" in caplog.text
    assert not scores(receipts)
