"""A sweep from its plan to its table; what fails is recorded, and the rest goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kedro.framework.project import pipelines

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.comparison import compare
from ddpm_kedro.files import atomic_write
from ddpm_kedro.framework.record import SUFFIX
from ddpm_kedro.framework.session import ProjectSession
from ddpm_kedro.framework.skipping import is_made
from ddpm_kedro.locks import FileLock
from ddpm_kedro.sweeps.halving import Halving
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.progress import SweepProgress
from ddpm_kedro.sweeps.scheduler import Scheduler, places_for
from ddpm_kedro.sweeps.search import Search
from ddpm_kedro.sweeps.table import Row, Score, table_of, write
from ddpm_kedro.sweeps.trial import KEDRO_RUN, Outcome, Trial

LOGGER = logging.getLogger(__name__)

# What a trial's rungs found, by their parameters: the next one replaces their files, and their
# models are gone, so this stays through changes of code, as trainings do
_RUNGS = "rungs.json"


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
    count = plan.settings.trials if search else len(trials)
    runs, images = count, sum(trial.images_ahead for trial in trials)
    if halving:
        runs, images = sum(halving.sizes), halving.num_images
    elif search:
        images = count * trials[0].images_ahead
    with held(plan.folder), SweepProgress(runs, images, len(places)) as progress:
        group = os.environ.get("WANDB_RUN_GROUP") or plan.name
        places = [{"WANDB_RUN_GROUP": group, **place} for place in places]
        scheduler = Scheduler(plan.project, places, progress, command)
        told = (plan.name, count, plan.folder, len(places))
        LOGGER.info("sweep %s: %d trials in %s, each with its log.txt; %d at a time", *told)
        if search:
            outcomes = search.run(scheduler, progress, score, _is_made)
        else:
            work = scheduler, progress
            ended = _halved(halving, score, *work) if halving else _ended(trials, *work)
            outcomes = [ended[trial.name] for trial in trials]
        rows = table_of(outcomes, score)
        write(rows, score, plan.name, plan.folder)
    return rows


def write_page(plan: Plan, rows: Sequence[Row]) -> None:
    """Write the page that compares the finished trials."""
    finished = {row.trial: plan.folder / row.trial for row in rows if row.state == "finished"}
    if finished:
        with atomic_write(plan.folder / "comparison.html", "w") as file:
            file.write(compare(finished).html)


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


def _ended(
    trials: Sequence[Trial], scheduler: Scheduler, progress: SweepProgress
) -> dict[str, Outcome]:
    """The outcomes of the trials, by name; a trial that is done is not run."""
    ended: dict[str, Outcome] = {}

    def ahead() -> Iterator[Trial]:
        for trial in trials:
            if _is_made(trial):
                ended[trial.name] = Outcome(trial, "finished", metrics=trial.result())
                progress.skip(trial, "nothing has changed, its results are there")
            else:
                yield trial

    with contextlib.closing(scheduler.run(ahead())) as outcomes:
        ended |= {outcome.trial.name: outcome for outcome in outcomes}
    return ended


def _is_made(trial: Trial) -> bool:
    """Whether `kedro run` would skip all that the trial does."""
    if not any(trial.folder.rglob(f"*{SUFFIX}")):
        return False
    told = {"env": trial.env, "runtime_params": dict(trial.params)}
    with ProjectSession.create(**told) as session:
        context = session.load_context()
        return is_made(pipelines["__default__"], context.catalog, context.project_path)


def _halved(
    halving: Halving, score: Score, scheduler: Scheduler, progress: SweepProgress
) -> dict[str, Outcome]:
    if over := halving.starting_over():
        progress.say(
            f"halving: each rung trains {over[0].name} from the start, as its rates depend on the "
            f"budget ({len(over)} of {len(halving.trials)} trials); under lr_schedule=constant or "
            "wsd it would go on"
        )
    last: dict[str, Outcome] = {}  # of each trial
    standing = halving.trials
    for rung, kimg in enumerate(halving.rungs):
        trials = [halving.at(trial, rung) for trial in standing]
        said = f"rung {rung + 1} of {len(halving.rungs)}, {kimg:g} kimg"
        progress.say(f"{said}: {len(trials)} trials")
        # Not run again: files are of the last rung, so of the others only what they found is left
        is_last = kimg == halving.rungs[-1]
        found = {each.name: not is_last and each.result(_RUNGS).get(_key(each)) for each in trials}
        ahead = [trial for trial in trials if not found[trial.name]]
        for trial in ahead:
            _check_is_lower(trial)
        ended = _ended(ahead, scheduler, progress)
        for trial in trials:
            if (outcome := ended.get(trial.name)) is None:
                ended[trial.name] = Outcome(trial, "finished", metrics=found[trial.name])
                progress.skip(trial, f"{said} was done before")
            elif outcome.state == "finished":
                told = {**trial.result(_RUNGS), _key(trial): outcome.metrics}
                with atomic_write(trial.folder / _RUNGS, "w") as file:
                    json.dump(told, file)
        last |= ended
        if not (standing := halving.going_on(ended, score)):
            break
    return last


def _check_is_lower(trial: Trial) -> None:
    """InputError where the trial's folder holds a model that a run on this rung would take for its
    own: of a plain sweep, or of other parameters."""
    seen = trial.result("08_reporting/training_card.json").get("images_seen") or 0
    training = trial.parameters.training
    if seen > training.budget_images and training.settled_images:
        raise InputError(
            f"{trial.folder}: holds a model of {seen:,} images, and this rung's would have seen "
            f"{training.budget_images:,}; choose another --folder"
        )


def _key(trial: Trial) -> str:
    return hashlib.sha256(trial.sameness.encode()).hexdigest()[:16]
