"""How many lanes: chosen once, kept, changed on request; and the bytes that follow from it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from torch import Tensor, nn

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.step.core_use import CoreUse, choose_core_use
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

FP32 = Precision("fp32", "cpu", "")
OURS = {"type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8, "dropout": 0.3}


class WithStatistics(nn.Module):
    """A network whose lanes would race for one running mean."""

    def __init__(self, in_channels: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.conv(self.norm(x))


class Recomputing(nn.Module):
    """A network that computes its activations again in the backward pass."""

    def __init__(self, in_channels: int, num_classes: int | None = None) -> None:
        super().__init__()
        from ddpm_kedro.diffusion.backbones.layers import Dropout

        conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.body = nn.Sequential(conv, Dropout(0.5))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.body, x, use_reentrant=False)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def chosen(
    facts: dict[str, Any] | None = None, team: Team | None = None, **changes: Any
) -> CoreUse:
    settings = tiny_settings(**{"batch_size": 16, "backbone": OURS, **changes})
    state = LearningState(Model(model_spec(tiny_images(), settings)), settings)
    state.network.train()
    return choose_core_use(state, FP32, team or Team(), facts)


@pytest.mark.usefixtures("two_cores")
class TestChoice:
    def test_one_lane_a_core_of_eight_rows_at_least(self) -> None:
        assert chosen() == CoreUse(2)
        assert chosen(batch_size=15) == chosen(micro_batch_size=8) == CoreUse(1, 2)
        torch.set_num_threads(1)
        assert chosen(batch_size=512) == CoreUse(1, 1)

    def test_a_training_keeps_what_it_was_begun_with(self, caplog: Any) -> None:
        with caplog.at_level(logging.INFO):
            assert chosen({"lanes": 5, "openmp_threads": None}) == CoreUse(5)
            assert chosen({"lanes": 1, "openmp_threads": 3}) == CoreUse(1, 3)
        assert [record.levelname for record in caplog.records] == ["INFO"] * 2
        assert "5 lanes" in caplog.text

    def test_an_older_checkpoint_goes_on_without_lanes(self) -> None:
        assert chosen({}) == CoreUse(1, 2)

    def test_one_from_a_gpu_or_a_team_chooses_anew(self) -> None:
        assert chosen({"lanes": None, "openmp_threads": None}) == CoreUse(2)

    def test_a_request_is_followed_with_a_word_about_the_bytes(self, caplog: Any) -> None:
        assert chosen({"lanes": 2, "openmp_threads": None}, lanes=4) == CoreUse(4)
        assert "2 lanes so far" in caplog.text
        assert "bytes" in caplog.text
        caplog.clear()
        assert chosen({"lanes": 4, "openmp_threads": None}, lanes=4) == CoreUse(4)
        assert not caplog.records
        assert chosen({"lanes": 1, "openmp_threads": 3}, lanes=1) == CoreUse(1, 2)
        assert "3 OpenMP" in caplog.text

    @pytest.mark.parametrize(
        ("backbone", "reason"),
        [
            ({"type": "test_core_use.WithStatistics"}, "changes its buffer norm"),
            ({"type": "test_core_use.Recomputing"}, "draws again in its backward pass"),
            ({"type": "tiny_training.TinyNetwork", "dropout": 0.5}, "global random generator"),
        ],
    )
    def test_networks_that_lanes_would_share_get_one(
        self, backbone: dict[str, Any], reason: str, caplog: Any
    ) -> None:
        with caplog.at_level(logging.INFO):
            assert chosen(backbone=backbone) == CoreUse(1, 2)
        assert reason in caplog.text

    def test_teams_and_compiled_losses_have_none(self) -> None:
        assert chosen(team=Team(0, 2)) == chosen(compile="on") == CoreUse()


def test_a_resumed_training_ends_in_the_same_bytes_on_other_cores(tmp_path: Path) -> None:
    """Begun with three lanes on one core, stopped twice, and gone on with on more cores."""
    choices = {"backbone": OURS, "micro_batch_size": 5}
    whole = run(tmp_path / "whole", **choices, lanes=3)
    before = torch.get_num_threads()
    for threads, step in ((1, 5), (2, 11)):
        torch.set_num_threads(threads)
        run_until(tmp_path / "parts", step, **choices, lanes=3 if step == 5 else None)
    parts = run(tmp_path / "parts", **choices)
    torch.set_num_threads(before)
    assert_same_bits(last_tensors(whole), last_tensors(parts))
    assert untimed_log(whole) == untimed_log(parts)
    assert whole.model.path.read_bytes() == parts.model.path.read_bytes()
    checkpoint = TrainingFolder(parts.model.path.parent).latest()
    assert checkpoint is not None
    assert checkpoint.facts["lanes"] == 3


@pytest.mark.usefixtures("two_cores")
def test_a_run_leaves_no_thread_and_no_setting_behind(tmp_path: Path) -> None:
    run(tmp_path, backbone=OURS, lanes=4)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]
    assert torch.get_num_threads() == 2
