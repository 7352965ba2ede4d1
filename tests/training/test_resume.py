"""A training stopped anywhere and resumed ends in the same bits as one never stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    assert_same_bits,
    last_tensors,
    run,
    run_until,
    untimed_log,
)

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker

DROPOUT = {"backbone": {"type": "tiny_training.TinyNetwork", "dropout": 0.5}}
COSINE = {"type": "ddpm_kedro.training.lr_schedule.Cosine", "warmup_kimg": 0.02}
STEP_LR = {"type": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [3, 9], "gamma": 0.5}
CHOICES: dict[str, dict[str, Any]] = {
    "adam": DROPOUT,
    "sgd": {"optimizer": {"type": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}},
    "rmsprop": {"optimizer": {"type": "torch.optim.RMSprop", "lr": 1e-3}, "lr_schedule": STEP_LR},
    "conditional": {"conditional": True, "label_dropout": 0.3, "lr_schedule": COSINE, **DROPOUT},
    "bf16": {"precision": "bf16", **DROPOUT},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path, choice: str) -> None:
    whole = run(tmp_path / "whole", **CHOICES[choice])
    for step in (1, 5, 8, 14):  # 8 is the step of a checkpoint, 5 lies inside an epoch
        outcome = run_until(tmp_path / "parts", step, **CHOICES[choice])
        assert (outcome.step, outcome.signum) == (step, signal.SIGINT)
    parts = run(tmp_path / "parts", **CHOICES[choice])

    assert_same_bits(last_tensors(whole), last_tensors(parts))
    assert whole.model.path.read_bytes() == parts.model.path.read_bytes()
    assert untimed_log(whole) == untimed_log(parts)


def test_other_intervals_on_the_way_change_no_weights(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", **DROPOUT)
    run_until(tmp_path / "parts", 7, **DROPOUT, log_every_kimg=0.01, preview_every_kimg=0.008)
    parts = run(tmp_path / "parts", **DROPOUT, log_every_kimg=1.0, checkpoint_every_kimg=1.0)
    assert whole.model.path.read_bytes() == parts.model.path.read_bytes()


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Records after the checkpoint are written anew, not twice."""
    whole = run(tmp_path / "whole")
    run_until(tmp_path / "parts", 13)
    folder = next((tmp_path / "parts").glob("*/checkpoints"))
    newest = sorted(folder.iterdir())[-1]
    for file in newest.iterdir():  # as if the process had died before this one
        file.unlink()
    newest.rmdir()
    parts = run(tmp_path / "parts")
    assert_same_bits(last_tensors(whole), last_tensors(parts))
    assert untimed_log(whole) == untimed_log(parts)


def test_the_same_choices_again_are_done(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = run(tmp_path)
    assert again.model.facts["status"] == "done"
    assert first.model.facts["finished"]
    assert again.model.facts["finished"]
    assert again.model.path == first.model.path
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_a_higher_budget_goes_on(tmp_path: Path) -> None:
    """The rate of this schedule does not depend on the budget, so neither do the weights."""
    whole = run(tmp_path / "whole", budget_kimg=0.2)
    first = run(tmp_path / "parts", budget_kimg=0.128)
    longer = run(tmp_path / "parts", budget_kimg=0.2)
    assert longer.model.path == first.model.path
    assert longer.model.facts["images_seen"] == 200
    assert_same_bits(last_tensors(whole), last_tensors(longer))


@pytest.mark.parametrize("keep_checkpoints", [1, 3])
@pytest.mark.parametrize("kimg", [(0.12, 0.2), (0.1, 0.128, 0.2)])
def test_budgets_in_turn_under_a_decay_give_the_bytes_of_the_highest(
    tmp_path: Path, kimg: tuple[float, ...], keep_checkpoints: int
) -> None:
    wsd = {"type": "ddpm_kedro.training.lr_schedule.WarmupStableDecay", "decay_share": 0.3}
    choices = {"lr_schedule": wsd, "keep_checkpoints": keep_checkpoints, **DROPOUT}
    whole = run(tmp_path / "whole", budget_kimg=kimg[-1], **choices)
    for budget_kimg in kimg:
        parts = run(tmp_path / "parts", budget_kimg=budget_kimg, **choices)
    assert parts.model.path.read_bytes() == whole.model.path.read_bytes()
    assert untimed_log(parts) == untimed_log(whole)
    previews = [path.name for path in whole.sample_previews.path.iterdir()]
    assert [path.name for path in parts.sample_previews.path.iterdir()] == previews
    lower = run(tmp_path / "parts", budget_kimg=kimg[0], **choices)
    assert lower.model.facts["status"] == "done"


def test_a_checkpoint_is_kept_where_the_decay_begins(tmp_path: Path) -> None:
    wsd = {"type": "ddpm_kedro.training.lr_schedule.WarmupStableDecay", "decay_share": 0.3}
    run(tmp_path, lr_schedule=wsd, keep_checkpoints=1)  # from 0.7 * 128 = 89.6 images on
    names = sorted(path.name for path in tmp_path.rglob("step_*"))
    assert names == ["step_0000000012", "step_0000000016"]


def test_a_decay_interrupted_and_then_given_a_higher_budget_is_left_behind(tmp_path: Path) -> None:
    wsd = {"type": "ddpm_kedro.training.lr_schedule.WarmupStableDecay", "decay_share": 0.3}
    whole = run(tmp_path / "whole", budget_kimg=0.2, lr_schedule=wsd)
    run_until(tmp_path / "parts", 14, lr_schedule=wsd)  # the rate falls from step 12 on
    parts = run(tmp_path / "parts", budget_kimg=0.2, lr_schedule=wsd)
    assert parts.model.path.read_bytes() == whole.model.path.read_bytes()


def test_a_stop_where_a_checkpoint_was_just_written_writes_no_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = TrainingFolder.save

    def counting(folder: TrainingFolder, *arguments: Any, **options: Any) -> None:
        saved.append(options["step"])
        save(folder, *arguments, **options)

    monkeypatch.setattr(TrainingFolder, "save", counting)
    run_until(tmp_path, 8)
    run_until(tmp_path, 10)
    assert saved == [8, 10]


def test_a_budget_that_shapes_the_rate_is_another_training(tmp_path: Path) -> None:
    first = run(tmp_path, lr_schedule=COSINE)
    longer = run(tmp_path, lr_schedule=COSINE, budget_kimg=0.2)
    assert longer.model.path.parent != first.model.path.parent


class SignalAt:
    """A sink that sends this process a signal when the record of a step comes."""

    def __init__(self, step: int, signum: int) -> None:
        self.step, self.signum = step, signum

    def record(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step:
            os.kill(os.getpid(), self.signum)

    def preview(self, path: Path, record: dict[str, Any]) -> None:
        pass

    def note(self, key: str, value: Any) -> None:
        pass


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path: Path, signum: signal.Signals) -> None:
    handler = signal.getsignal(signum)
    tracker = Tracker()
    tracker.attach(SignalAt(3, signum))
    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        run(tmp_path / "parts", tracker)
    assert stopped.value.exit_code == 128 + signum
    assert signal.getsignal(signum) == handler
    assert [path.name for path in tmp_path.rglob("step_*")] == ["step_0000000003"]

    parts, whole = run(tmp_path / "parts"), run(tmp_path / "whole")
    assert untimed_log(whole) == untimed_log(parts)


def test_a_signal_at_the_very_end_stops_what_would_follow_and_loses_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    tracker = Tracker()
    tracker.attach(SignalAt(untimed_log(whole)[-1]["step"], signal.SIGTERM))
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", tracker)
    again = run(tmp_path / "stopped")
    assert again.model.facts["status"] == "done"
    assert again.model.path.read_bytes() == whole.model.path.read_bytes()


def test_time_that_is_up_saves_a_model_and_returns(tmp_path: Path) -> None:
    early = run(tmp_path / "parts", max_minutes=1e-9)
    assert early.model.facts["images_seen"] == 8
    assert early.model.path.exists()
    parts, whole = run(tmp_path / "parts"), run(tmp_path / "whole")
    assert parts.model.facts["images_seen"] == 128
    assert_same_bits(last_tensors(whole), last_tensors(parts))


def test_restart_starts_over(tmp_path: Path) -> None:
    first = run(tmp_path).model.path.read_bytes()
    tracker = Tracker()
    tracker.attach(SignalAt(3, signal.SIGINT))
    with pytest.raises(Stopped):
        run(tmp_path, tracker, restart=True)
    assert run(tmp_path).model.path.read_bytes() == first


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, **DROPOUT)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    from tiny_training import tiny_images, tiny_settings

    from ddpm_kedro.diffusion.model import Model
    from ddpm_kedro.training.step.state import LearningState
    from ddpm_kedro.training.train import model_spec

    receipts = run(tmp_path)
    checkpoint = TrainingFolder(receipts.model.path.parent).latest()
    assert checkpoint is not None
    wide = tiny_settings(backbone={"type": "tiny_training.TinyNetwork", "width": 9})
    state = LearningState(Model(model_spec(tiny_images(), wide)), wide)
    with pytest.raises(InputError, match="does not fit this training"):
        state.restore(checkpoint)


@pytest.mark.parametrize("name", ["training_log.jsonl", "previews/*.png"])
def test_a_log_or_preview_altered_since_the_end_is_not_handed_on_as_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    done = run(tmp_path)
    assert run(tmp_path).training_log.facts["finished"]
    altered = next(done.model.path.parent.glob(name))
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    again = run(tmp_path)
    assert again.model.facts["status"] == "done"
    assert not again.training_log.facts["finished"]
    assert "was altered since the training ended" in caplog.text
    assert run(tmp_path, restart=True).training_log.facts["finished"]
