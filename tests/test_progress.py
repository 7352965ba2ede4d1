"""Progress in a log: early, then rarely, and with the time that is really left."""

from __future__ import annotations

import itertools
import re

import pytest

from ddpm_kedro.progress import Progress, duration, hidden


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level("INFO", logger="ddpm_kedro")
    clock = Clock()
    monkeypatch.setattr("ddpm_kedro.progress.time.monotonic", clock)
    return clock


def lines_at(
    progress: Progress, clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float, parts: int
) -> list[float]:
    """Seconds after the beginning at which a line came, of work in so many equal parts."""
    began_at, came_at = clock.now, []
    for _ in range(parts):
        clock.now += seconds / parts
        count = len(caplog.records)
        progress.update(progress.total / parts)
        came_at += [clock.now - began_at] * (len(caplog.records) - count)
    return came_at


@pytest.mark.parametrize("seconds", [11, 60, 3600, 1e6])
@pytest.mark.parametrize("most_lines", [1, 2, 8])
def test_lines_thin_out_as_work_gets_longer(
    clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float, most_lines: int
) -> None:
    with Progress(1000, "images", "work", most_lines=most_lines) as progress:
        came_at = lines_at(progress, clock, caplog, seconds, parts=max(1000, int(seconds / 4)))
    assert 1 <= len(came_at) <= most_lines
    assert 5 <= came_at[0] <= 10
    assert all(after - before >= 5 for before, after in itertools.pairwise(came_at))
    if seconds >= 3600:
        assert len(came_at) >= most_lines - 1


def test_short_and_hidden_work_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    assert not lines_at(Progress(10, "images", "short"), clock, caplog, seconds=4.9, parts=10)
    with hidden():
        progress = Progress(10, "images", "hidden")
    silent = Progress(10, "images", "silent", silent=True)
    for one in (progress, silent):
        assert not lines_at(one, clock, caplog, seconds=1000, parts=100)


def test_work_of_unknown_length_says_less_and_less(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress(0, "images", "work")
    assert lines_at(progress, clock, caplog, seconds=100, parts=100) == [5, 10, 20, 40, 80]
    assert "left" not in caplog.text
    assert "/" not in re.sub("images/s", "", caplog.text.split("work", 1)[1].split("\n")[0])


def test_the_time_left_is_the_rate_s_or_the_one_told(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress(150, "images", "work", initial=50)
    clock.now += 10
    progress.update(20)
    assert progress.seconds_left() == pytest.approx(40)
    assert caplog.messages == ["work: 70/150 images, 2.00 images/s, 40 s left"]
    told = Progress(10**9, "images", "work", seconds_left=lambda: 90 - clock.now % 100)
    came_at = lines_at(told, clock, caplog, seconds=80, parts=80)
    assert len(came_at) <= 2  # of the time that it takes, whatever is counted
    assert "work (a pause)" not in caplog.text
    with told.doing("a pause"):
        clock.now += 1
    assert told.description == "work"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.314, "0.31 s"), (41, "41 s"), (187, "3:07 min"), (7500, "2:05 h"), (3e5, "3.5 days")],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
