"""What training says of its cost, of the time it took and of the time it will take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import tiny_images, tiny_settings
from torch import nn

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.estimates import (
    HELD_OUT,
    PREVIEW,
    QUICK_SCORE,
    Forecast,
    Pace,
    describe_cost,
)
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec


class LooksAtValues(nn.Module):
    """A user's network that cannot run without values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: object = None) -> torch.Tensor:
        return x * (self.scale.sum() if float(t[0]) > 0 else 1)


class NeedsNonzero(LooksAtValues):
    """Another one: its shapes depend on values."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: object = None) -> torch.Tensor:
        return x * self.scale[: len(t.nonzero())].sum()


def state_with(network: nn.Module | None) -> LearningState:
    settings = tiny_settings(backbone={
        "type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8,
        "channel_mults": [1],
    })  # fmt: skip
    return LearningState(Model(model_spec(tiny_images(), settings), network), settings)


def test_counts_parameters_flops_and_memory() -> None:
    state = state_with(None)
    parameters = sum(parameter.numel() for parameter in state.parameters)
    said = describe_cost(state, 8, Precision("fp32", "cpu", ""))
    assert said.startswith(f"{parameters:,} parameters, ")
    assert "GFLOP forward" in said
    assert said.endswith("of memory for 8 images at a time")


@pytest.mark.parametrize("network", [LooksAtValues, NeedsNonzero])
def test_a_network_that_needs_values_trains_without_an_estimate(network: type) -> None:
    said = describe_cost(state_with(network()), 8, Precision("fp32", "cpu", ""))
    assert said.startswith(f"3 parameters; no estimate of cost ({network.__name__} ")


def test_pauses_count_for_nothing_but_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ddpm_kedro.training.estimates.time.monotonic", lambda: now[0])
    pace = Pace(torch.device("cpu"), batch_size=10, elapsed_seconds=1000.0)
    told = []
    for step in range(1, 31):
        now[0] += 9.0 if step <= 5 else 2.0
        if pace.count_step():
            told.append(step)
        assert (pace.step_seconds is None) == (step < 25)
        if step % 10 == 0:
            rate = pace.lap()
            with pace.paused("preview"):
                now[0] += 50.0
                assert pace.left_of_pause() == pytest.approx(0.0)
            now[0] += 0.0
    assert told == [25]
    assert pace.step_seconds == pytest.approx(2.0)
    assert rate == pytest.approx(5.0)
    assert pace.pauses == {"preview": 50.0}
    assert pace.spent == {"preview": 150.0}
    assert pace.session_seconds == pytest.approx(5 * 9 + 25 * 2 + 150)
    assert pace.elapsed_seconds == pytest.approx(1000 + pace.session_seconds)
    with pace.paused("preview"):
        now[0] += 20.0
        assert pace.left_of_pause() == pytest.approx(30.0)
        assert pace.step_seconds == pytest.approx(2.0)


PAUSES = {PREVIEW: 11.0, HELD_OUT: 3.0, QUICK_SCORE: 5.0}


def simulated(state: LearningState, spent: float) -> float:
    """Seconds until the loop of training ends, at 2 s a step, walked through step by step."""
    settings, seconds = state.settings, 0.0
    step, drawn, scored = state.step, True, True
    while step < settings.num_steps:
        step += 1
        seconds += 2.0
        seen = step * settings.batch_size

        def due(every_kimg: float | None, seen: int = seen) -> bool:
            every = 1000 * (every_kimg or 1e9)
            return seen // every > (seen - settings.batch_size) // every

        seconds += due(settings.checkpoint_every_kimg) * PAUSES[HELD_OUT]
        drawn = due(settings.preview_every_kimg)
        scored = due(settings.score_every_kimg)
        seconds += drawn * PAUSES[PREVIEW] + scored * PAUSES[QUICK_SCORE]
        if settings.max_minutes is not None and spent + seconds >= 60 * settings.max_minutes:
            break
    scored = scored or settings.score_every_kimg is None
    return seconds + (not drawn) * PAUSES[PREVIEW] + (not scored) * PAUSES[QUICK_SCORE]


def forecast(
    step: int, spent: float = 0.0, pauses: dict[str, float] = PAUSES, **changes: Any
) -> tuple[Forecast, LearningState]:
    settings = tiny_settings(budget_kimg=0.8, checkpoint_every_kimg=0.1, **changes)
    state = LearningState(Model(model_spec(tiny_images(), settings)), settings)
    state.counters["step"].fill_(step)
    pace = SimpleNamespace(
        step_seconds=2.0, session_seconds=spent, pauses=pauses, left_of_pause=lambda: 0.0
    )
    return Forecast(state, pace, rows=8, held_out_images=8), state


@pytest.mark.parametrize("max_minutes", [None, 0.6, 1.23, 2.0, 2.5, 60.0])
@pytest.mark.parametrize("preview_every_kimg", [None, 0.06, 0.16, 5.0])
@pytest.mark.parametrize("score_every_kimg", [None, 0.05, 5.0])
@pytest.mark.parametrize(("step", "spent"), [(0, 0.0), (37, 30.0), (99, 35.0)])
def test_the_time_left_is_what_the_loop_takes(
    max_minutes: float | None,
    preview_every_kimg: float | None,
    score_every_kimg: float | None,
    step: int,
    spent: float,
) -> None:
    intervals = {"preview_every_kimg": preview_every_kimg, "score_every_kimg": score_every_kimg}
    made, state = forecast(step, spent, max_minutes=max_minutes, **intervals)
    assert made.seconds_left() == pytest.approx(simulated(state, spent), abs=PAUSES[HELD_OUT])


def test_a_first_preview_costs_what_its_forward_passes_do() -> None:
    # 2 sets of weights x 2 images x 2 steps of the sampler, against 3 passes of 8 images in 2 s
    made, _ = forecast(0, pauses={}, held_out_fraction=0.0, preview_every_kimg=0.4)
    line, seconds = made.describe()
    assert seconds["previews"] == pytest.approx(2 * 2 * (8 / (3 * 8)))
    assert seconds["training"] == pytest.approx(made.seconds_left())
    assert "the 100 steps left take about 3:2" in line


def test_what_ends_a_training_is_said() -> None:
    line, seconds = forecast(0, max_minutes=1.0)[0].describe()
    assert "max_minutes=1 ends it at about 220 of 800 images, after about" in line
    assert 60 <= seconds["training"] <= 60 + PAUSES[PREVIEW] + 2 + PAUSES[HELD_OUT]


def test_quick_scores_are_foretold_with_their_share_and_the_interval_that_is_right() -> None:
    made, _ = forecast(0, score_every_kimg=0.4)
    assert made.describe()[0].endswith(", 2 quick scores 10 s")
    share, kimg = made.share_of_scores(0.03)
    assert share == pytest.approx(5 / (5 + 400 / 8 * 2))
    assert kimg == pytest.approx(0.65)  # 5 s of 5 / 0.03 s, at 4 images/s
    again, _ = forecast(0, score_every_kimg=kimg)
    assert 0.029 < again.share_of_scores(0.03)[0] <= 0.03


def test_a_first_quick_score_costs_its_forward_passes_and_its_features() -> None:
    state = forecast(0)[1]
    settings = tiny_settings(score_every_kimg=0.4)
    pace = SimpleNamespace(
        step_seconds=2.0, session_seconds=0, pauses={}, left_of_pause=lambda: 0.0
    )
    made = Forecast(LearningState(state.model, settings), pace, 8, 0, feature_seconds=7.0)
    assert made.describe()[0].endswith(", 1 quick scores 3:40 min")  # 256 x 10 / 24 steps, and 7 s
