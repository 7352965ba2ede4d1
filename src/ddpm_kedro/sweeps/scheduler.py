"""Which trial runs when, and on which GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddpm_kedro.sweeps.progress import SweepProgress
from ddpm_kedro.sweeps.trial import Outcome, Trial, TrialProcess

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 2.0  # between looks at how far trainings have come
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Scheduler:
    """Runs trials in the folder `project`, each in a process of its own by `command`, as many at a
    time as there are `places`; a place is the variables that its trials get."""

    project: Path
    places: Sequence[Mapping[str, str]]
    progress: SweepProgress
    command: Sequence[str]

    def run(
        self,
        trials: Iterable[Trial],
        is_hopeless: Callable[[TrialProcess], bool] = lambda process: False,
    ) -> Iterator[Outcome]:
        """Run the trials and give each one's outcome as it ends.

        A trial is taken from `trials` when a place is free, so these may depend on the outcomes
        given before. Every two seconds `is_hopeless` is asked of each running trial; where it says
        so the trial is stopped. When this generator is closed or fails, running trials save and
        end.
        """
        coming, looked_at = iter(trials), time.monotonic()
        running: dict[int, TrialProcess] = {}
        try:
            while True:
                for place, given in enumerate(self.places):
                    if place not in running and (trial := next(coming, None)) is not None:
                        running[place] = self._start(trial, given)
                if not running:
                    return
                time.sleep(_POLL_SECONDS)
                for place, process in list(running.items()):
                    if (outcome := process.poll()) is not None:
                        del running[place]
                        self.progress.end(process, outcome)
                        yield outcome
                if time.monotonic() - looked_at >= _LOOK_SECONDS:
                    looked_at = time.monotonic()
                    self.progress.look(running.values())
                    for process in filter(is_hopeless, running.values()):
                        process.stop()
        finally:
            for process in running.values():
                process.stop()
            for process in running.values():
                process.wait()

    def _start(self, trial: Trial, given: Mapping[str, str]) -> TrialProcess:
        process = TrialProcess(trial, self.project, given, self.command)
        self.progress.start(process, f" on GPU {given[_GPUS]}" if _GPUS in given else "")
        return process


def places_for(trials: Sequence[Trial], workers: int | None) -> list[dict[str, str]]:
    """One place for each of the `workers`, None: of the GPUs, one without any. Several share the
    GPUs out among them; a trial that trains with several processes gets as many GPUs.

    On a CPU they share the cores, and nothing is set: bytes depend on how many a trial sees.
    """
    gpus = _gpus() if all(each.parameters.device in ("auto", "cuda") for each in trials) else []
    each = max(trial.parameters.training.distributed.workers for trial in trials)
    starts = range(0, len(gpus) - each + 1, each)
    groups = [",".join(gpus[first : first + each]) for first in starts]
    count = min(workers or len(groups) or 1, len(trials))
    if len(groups) < 2 or count < 2:
        return [{}] * count
    return [{_GPUS: groups[place % len(groups)]} for place in range(count)]


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    seen = os.environ.get(_GPUS)
    every = [str(index) for index in range(torch.cuda.device_count())]
    return seen.split(",")[: len(every)] if seen else every
