"""A sweep from its plan to its table; what fails is recorded, and the rest goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.locks import FileLock
from ddpm_kedro.sweeps.halving import Halving
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.progress import SweepProgress
from ddpm_kedro.sweeps.scheduler import Scheduler, places_for
from ddpm_kedro.sweeps.search import Search
from ddpm_kedro.sweeps.table import Row, Score, table_of, write
from ddpm_kedro.sweeps.trial import KEDRO_RUN, Outcome, Trial

LOGGER = logging.getLogger(__name__)

_GROUP = "WANDB_RUN_GROUP"
_RESULTS = "rungs.json"


def carry_out(plan: Plan, command: Sequence[str] = KEDRO_RUN) -> list[Row]:
    """Run all trials of the plan: the rows of its table, which is written beside the trials.

    InputError, before any trial starts, where one of them or the sweep is wrong, the folder cannot
    be written or another process is at this sweep. `command` stands for `kedro run`.
    """
    search = Search(plan) if plan.settings.search else None
    trials = search.corners if search else plan.trials()
    score, halving = Score(plan.settings.score), None
    with plan.naming():
        score.check()
        if plan.settings.halving is not None:
            halving = Halving(trials, plan.settings.halving)
    places = places_for(trials, plan.settings.workers)
    count, images = len(trials), sum(trial.images_ahead for trial in trials)
    if halving:
        count, images = sum(halving.sizes), halving.num_images
    if search:
        count = plan.settings.trials
        images = count * trials[0].images_ahead
    with (
        held(plan.folder),
        contextlib.closing(SweepProgress(count, images, len(places))) as progress,
    ):
        group = {_GROUP: os.environ.get(_GROUP) or plan.name}
        scheduler = Scheduler(plan.project, places, group, progress, command)
        LOGGER.info(
            "sweep %s: %d trials in %s, %d at a time",
            plan.name,
            plan.settings.trials if search else len(trials),
            plan.folder,
            len(places),
        )
        if search:
            outcomes = search.run(scheduler, progress, score)
        elif halving:
            outcomes = _halved(halving, score, scheduler, progress)
        else:
            ended = {each.trial.name: each for each in scheduler.run(trials)}
            outcomes = [ended[trial.name] for trial in trials]
        rows = table_of(outcomes, score)
        write(rows, score, plan.name, plan.folder)
        _compare(outcomes, plan.folder)
    return rows


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a sweep's folder and keep other processes from working on the same sweep."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".sweep.lock")
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: a sweep cannot be kept here ({error.strerror}); choose "
            "another --folder"
        ) from error
    with lock:
        yield


def _halved(
    halving: Halving, score: Score, scheduler: Scheduler, progress: SweepProgress
) -> list[Outcome]:
    if over := halving.starting_over():
        progress.say(
            f"halving: each rung trains {over[0].name} from the start, as its rates depend on the "
            f"budget ({len(over)} of {len(halving.trials)} trials); under lr_schedule=constant or "
            "wsd it would go on"
        )

    def run(rung: int, trials: list[Trial]) -> list[Outcome]:
        ended, kimg = {}, halving.rungs[rung]
        said = f"rung {rung + 1} of {len(halving.rungs)}, {kimg:g} kimg"
        progress.say(f"{said}: {len(trials)} trials")
        for trial in trials:
            # A run would find the model of a later rung; of the last one it finds all by itself
            if kimg < halving.rungs[-1] and (metrics := _results(trial).get(_key(trial))):
                ended[trial.name] = Outcome(trial, "finished", metrics=metrics)
                progress.skip(trial, f"{said} was done before")
        for outcome in scheduler.run([each for each in trials if each.name not in ended]):
            ended[outcome.trial.name] = outcome
            if outcome.state == "finished":
                results = _results(outcome.trial) | {_key(outcome.trial): outcome.metrics}
                with atomic_write(outcome.trial.folder / _RESULTS, "w") as file:
                    json.dump(results, file)
        return [ended[trial.name] for trial in trials]

    return halving.run(run, score)


def _results(trial: Trial) -> dict[str, Any]:
    """What the trial's rungs found, each kept here because the next one replaces its files."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((trial.folder / _RESULTS).read_text())
    return {}


def _key(trial: Trial) -> str:
    return hashlib.sha256(trial.sameness.encode()).hexdigest()[:16]


def _compare(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the page that shows the finished trials side by side."""
    finished = {each.trial.name: each.trial.folder for each in outcomes if each.metrics}
    try:
        from ddpm_kedro.evaluation.comparison import compare
    except ImportError:
        return
    if finished:
        with atomic_write(folder / "comparison.html", "w") as file:
            file.write(compare(finished).html)
