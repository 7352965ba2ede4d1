"""Places on GPUs, and what is said of the time left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ddpm_kedro.sweeps import scheduler
from ddpm_kedro.sweeps.progress import SweepProgress
from ddpm_kedro.sweeps.scheduler import places_for
from ddpm_kedro.sweeps.trial import Outcome


def trials(count: int, device: str = "auto", workers: int = 1) -> list:
    training = SimpleNamespace(distributed=SimpleNamespace(workers=workers))
    parameters = SimpleNamespace(device=device, training=training)
    return [SimpleNamespace(parameters=parameters)] * count


@pytest.mark.parametrize(
    ("gpus", "given", "workers", "places"),
    [
        ("", trials(4), None, [""]),
        ("", trials(4), 3, ["", "", ""]),
        ("0,1,2", trials(4), None, ["0", "1", "2"]),
        ("0,1,2", trials(2), None, ["0", "1"]),  # no more than there are trials
        ("5,7", trials(4), 3, ["5", "7", "5"]),
        ("0,1", trials(4), 1, [""]),
        ("0", trials(4), 2, ["", ""]),
        ("0,1,2,3,4", trials(4, workers=2), None, ["0,1", "2,3"]),
        ("0,1", trials(4, device="cpu"), None, [""]),
        ("0,1", trials(4, device="cuda:1"), None, [""]),
    ],
)
def test_each_place_has_gpus_of_its_own(monkeypatch, gpus, given, workers, places):
    monkeypatch.setattr(scheduler, "_gpus", lambda: gpus.split(",") if gpus else [])
    found = places_for(given, workers)
    assert [place.get("CUDA_VISIBLE_DEVICES", "") for place in found] == places


def test_gpus_that_are_hidden_stay_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert scheduler._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-x")
    assert scheduler._gpus() == ["3", "GPU-x"]


class FakeProcess:
    def __init__(self, seen: int = 0, images: int = 1000) -> None:
        self.seen, self.seconds = seen, 0.0
        self.trial = SimpleNamespace(
            name="x", images_ahead=images, images_before=0, images_seen=lambda: self.seen
        )

    def goes(self, seconds: float, images: int) -> None:
        self.seconds, self.seen = seconds, self.seen + images


class TestTimeLeft:
    def test_follows_the_running_trial_then_those_that_ended(self):
        progress, first = SweepProgress(4, 4000, places=1), FakeProcess()
        progress.start(first, "")
        assert progress._seconds_left() is None
        first.goes(10, 500)
        progress.look([first])
        assert progress._seconds_left() == 70  # 3,500 images at 50 a second
        first.goes(40, 500)
        progress.end(first, Outcome(first.trial, "finished", seconds=40))
        assert progress._seconds_left() == 120

    def test_counts_what_was_trained_before_as_done_and_not_as_fast(self):
        progress, resumed = SweepProgress(2, 2000, places=1), FakeProcess(seen=900)
        progress.start(resumed, "")
        resumed.goes(10, 100)
        progress.look([resumed])
        assert progress._seconds_left() == 100
        progress.end(resumed, Outcome(resumed.trial, "finished", seconds=10))
        assert progress._seconds_left() == 100
        found = FakeProcess()
        progress.skip(found.trial, "done")
        assert progress._seconds_left() == 0

    def test_is_shared_by_places_and_not_told_by_failures(self):
        progress = SweepProgress(3, 3000, places=2)
        failed, running = FakeProcess(), FakeProcess(seen=800)
        for each in (failed, running):
            progress.start(each, "")
        failed.goes(1, 10)
        progress.end(failed, Outcome(failed.trial, "failed", seconds=1))
        running.seen, running.seconds = 100, 10  # another training than the one before
        progress.look([running])
        assert progress._seconds_left() == 95
