"""The clock of training leaves pauses out."""

from __future__ import annotations

import pytest
import torch

from ddpm_kedro.training.estimates import Pace


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
