"""What a sweep says while it runs: a line for each event, how far it is, and the time left."""

from __future__ import annotations

from collections.abc import Collection

from ddpm_kedro.progress import Progress, duration
from ddpm_kedro.sweeps.trial import Outcome, Trial, TrialProcess


class SweepProgress(Progress):
    """Work is counted in images: `num_images` are to be trained on by all `num_trials`, `places`
    of them at a time. The time left follows the trials that ended, else those that run."""

    def __init__(self, num_trials: int, num_images: float, places: int) -> None:
        self._num_trials, self._num_images, self._places = num_trials, num_images, places
        self._base: dict[TrialProcess, float] = {}  # images that its training had seen before
        self._seen: dict[TrialProcess, float] = {}
        self._num_over, self._images_over = 0, 0.0  # of trials that are over
        self._ended = (0.0, 0.0)  # seconds that whole trials took, and images that they trained on
        super().__init__(
            int(num_images), "images", "sweep", seconds_left=self._seconds_left, most_lines=20
        )

    def start(self, process: TrialProcess, where: str) -> None:
        """Say that a trial starts."""
        self._base[process] = self._seen[process] = process.trial.images_seen()
        self.initial += _done(process.trial, self._base[process])  # which takes no time
        self.say(f"{process.trial.name}: starts{where}")

    def skip(self, trial: Trial, line: str) -> None:
        """Count a trial that need not run."""
        self.say(f"{trial.name}: {line}")
        self.initial += trial.images_ahead  # which took no time
        self._close(trial)

    def end(self, process: TrialProcess, outcome: Outcome) -> None:
        """Count a trial that ended and say how."""
        seconds, trained = outcome.seconds, self._trained(process)
        if outcome.state == "finished" and trained > 0:
            self._ended = (self._ended[0] + seconds, self._ended[1] + trained)
        reason = outcome.reason and f": {outcome.reason}"
        self.say(f"{outcome.trial.name}: {outcome.state} after {duration(seconds)}{reason}")
        del self._seen[process]
        self._close(outcome.trial)

    def look(self, running: Collection[TrialProcess]) -> None:
        """See how far the running trials have come, and show it."""
        for process in running:
            self._trained(process)
        self._show()

    def _close(self, trial: Trial) -> None:
        self._num_over += 1
        self._images_over += trial.images_ahead
        self._show()

    def _show(self) -> None:
        trials = f"{self._num_over}/{self._num_trials}"
        self.update(self._images_done() - self.done, trials=trials)

    def _trained(self, process: TrialProcess) -> float:
        """Images that a process trained on until now."""
        seen = self._seen[process] = process.trial.images_seen()
        if seen < self._base[process]:  # it is another training than before
            self.initial -= _done(process.trial, self._base[process])
            self._base[process] = 0.0
        return seen - self._base[process]

    def _images_done(self) -> float:
        return self._images_over + sum(_done(each.trial, seen) for each, seen in self._seen.items())

    def _seconds_left(self) -> float | None:
        seconds, trained = self._ended
        if not trained:
            seconds = sum(process.seconds for process in self._seen)
            trained = sum(seen - self._base[process] for process, seen in self._seen.items())
        ahead = max(0.0, self._num_images - self._images_done())
        return seconds / trained * ahead / self._places if trained else None


def _done(trial: Trial, seen: float) -> float:
    """Of the images ahead of a trial, those that a training has seen."""
    return min(max(0.0, seen - trial.images_before), trial.images_ahead)
