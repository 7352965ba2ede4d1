"""A search by optuna over ranges of parameters: what to try next, and what to give up early."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.metric_names import badness
from ddpm_kedro.files import atomic_write
from ddpm_kedro.framework.composition import leaves
from ddpm_kedro.sweeps.plan import Plan, said
from ddpm_kedro.sweeps.progress import SweepProgress
from ddpm_kedro.sweeps.scheduler import Scheduler
from ddpm_kedro.sweeps.search_space import SearchSpace, imported_optuna
from ddpm_kedro.sweeps.table import Row, Score
from ddpm_kedro.sweeps.trial import Outcome, Trial, TrialProcess

if TYPE_CHECKING:
    import optuna

LOGGER = logging.getLogger(__name__)

STARTUP = 5  # trials drawn at random before any is learned from, and finished before any is pruned
MOST_DRAWS = 1000  # for one trial that is new and right


class Search:
    """Chooses a plan's next trial by the scores of those before.

    All of it is in the journal `<folder>/optuna.log`, in which one process at a time writes: the
    trials that a killed one left open come first again, with their very parameters. Drawn one after
    the other, parameters follow from the seed, the number and the scores before, so an interruption
    changes none of them; of several at once they also depend on which ends first. A trial that
    failed stays open: others keep their distance from it, and it is tried again when the search
    goes on.

    `corners` are trials at the ends of the ranges, which were checked. InputError where a range is
    wrong, its ends are refused, there are fewer different parameters than trials, or optuna is not
    installed.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, settings = plan, plan.settings
        self._drawn: dict[str, optuna.Trial] = {}  # by this process, by the trials' names
        with plan.naming():
            self._state = imported_optuna().trial.TrialState
            self._space = SearchSpace(settings.search)
            if (different := self._space.num_different) < settings.trials:
                raise InputError(f"trials={settings.trials}: the ranges hold {different} different")
        self.corners = [plan.trial(corner) for corner in self._space.corners()]
        budget = self.corners[0].budget_kimg
        every = self.corners[0].parameters.training.score_every_kimg
        self._num_scores = int(budget // every) if every and settings.prune else 0
        if settings.prune and not self._num_scores:
            with plan.naming():
                raise InputError(
                    f"prune=true: no quick score within training.budget_kimg={budget:g}, lower "
                    f"evaluation.every_kimg ({every}) or say prune: false"
                )

    def run(
        self,
        scheduler: Scheduler,
        progress: SweepProgress,
        score: Score,
        is_made: Callable[[Trial], bool],
    ) -> list[Outcome]:
        """Run as many trials as are asked for; the outcomes of all of them, those before this
        process too: what was given up last, with its last quick score as the reason. Finished ones
        are made again unless they are `is_made`. InputError where the search was begun with other
        parameters."""
        self._study = self._opened(self._plan.folder / "optuna.log")
        outcomes, again = [], []
        for told in self._study.trials:
            if told.state in (self._state.COMPLETE, self._state.PRUNED):
                trial = self._plan.trial(self._space.values(told.params))
                if told.state == self._state.COMPLETE and not is_made(trial):
                    again.append(trial)
                else:
                    outcomes.append(self._told(trial, told.number))
                    progress.skip(trial, "was done before")
        trials = itertools.chain(again, self._trials())
        with contextlib.closing(scheduler.run(trials, self._is_hopeless)) as ended:
            outcomes += [self._noted(outcome, score) for outcome in ended]
        return sorted(outcomes, key=lambda outcome: outcome.state == "stopped")

    def _noted(self, outcome: Outcome, score: Score) -> Outcome:
        drawn = self._drawn.get(outcome.trial.name)
        if drawn is not None and outcome.state == "stopped":
            self._study.tell(drawn, state=self._state.PRUNED)
            return self._told(outcome.trial, drawn.number)
        if drawn is not None and score.of(outcome) is not None:
            list(self._reported(outcome.trial))  # its last ones, others are compared with
            self._study.tell(drawn, badness(outcome.metrics, score.name))
        return outcome

    def _told(self, trial: Trial, number: int) -> Outcome:
        told = self._study.trials[number]
        if told.state == self._state.COMPLETE:
            return Outcome(trial, "finished", metrics=trial.result())
        kimg = told.last_step * trial.parameters.training.score_every_kimg
        score = told.intermediate_values[told.last_step]
        return Outcome(trial, "stopped", f"given up at {kimg:g} kimg, quick score {score:.4g}")

    def _trials(self) -> Iterator[Trial]:
        """What earlier processes left open, then new ones, each drawn when it is asked for."""
        from optuna.trial import Trial as Drawn

        while True:
            tried: list[dict[str, Any]] = []
            own = {drawn.number for drawn in self._drawn.values()}
            for known in self._study.get_trials(deepcopy=False):
                if known.state == self._state.RUNNING and known.number not in own:
                    is_whole = known.params.keys() == self._space.distributions.keys()
                    if is_whole and (trial := self._checked(Drawn(self._study, known._trial_id))):
                        yield trial
                        break
                    self._study.tell(known.number, state=self._state.FAIL)  # to be drawn again
                elif known.state != self._state.FAIL:
                    tried.append(self._space.values(known.params))
            else:
                if len(tried) >= self._plan.settings.trials:
                    return
                yield self._new(tried)

    def _new(self, tried: list[dict[str, Any]]) -> Trial:
        from optuna import samplers

        seed = (self._plan.settings.seed * 1_000_003 + len(tried)) % 2**32
        self._study.sampler = samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        for _ in range(MOST_DRAWS):
            drawn = self._study.ask(self._space.distributions)
            if self._space.values(drawn.params) not in tried and (trial := self._checked(drawn)):
                return trial
            self._study.tell(drawn, state=self._state.FAIL)
            self._study.sampler = samplers.RandomSampler(seed=seed + drawn.number)
        raise InputError(f"sweep {self._plan.name}: nothing new in its ranges fits together")

    def _checked(self, drawn: optuna.Trial) -> Trial | None:
        try:
            trial = self._plan.trial(self._space.values(drawn.params))
        except InputError as error:  # of values that do not go together, though each may be right
            LOGGER.warning("%s: drawn anew", error)
            return None
        self._drawn[trial.name] = drawn
        return trial

    def _is_hopeless(self, process: TrialProcess) -> bool:
        """Whether to give up a running trial, by its quick scores but the last, so far."""
        if (drawn := self._drawn.get(process.trial.name)) is None:
            return False
        known = self._study.trials[drawn.number].last_step or 0
        numbers = itertools.chain([known], self._reported(process.trial))
        return any(each < self._num_scores and drawn.should_prune() for each in numbers)

    def _reported(self, trial: Trial) -> Iterator[int]:
        """The numbers of a trial's new quick scores, each when it is noted."""
        drawn = self._drawn[trial.name]
        known = set(self._study.trials[drawn.number].intermediate_values)
        for number, score in trial.quick_scores():
            if number not in known:
                known.add(number)
                drawn.report(math.nan if score is None else score, number)
                yield number

    def _opened(self, journal: Path) -> optuna.Study:
        from optuna import create_study, pruners
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        # A killed process left its lock, for which optuna would wait, or half a line, on which it
        # would stumble as soon as another follows
        Path(f"{journal}.lock").unlink(missing_ok=True)
        written = journal.read_bytes() if journal.exists() else b""
        if not written.endswith(b"\n"):
            with atomic_write(journal) as whole:
                whole.write(written[: written.rfind(b"\n") + 1])
        # The median, since quick scores are few and noisy: a trial is given up once the best of its
        # own is worse than what half of the finished ones had at the same time. Not in its first
        # third, where a low rate leads and a high one is yet to come down.
        pruner = pruners.MedianPruner(STARTUP, n_warmup_steps=self._num_scores // 3 + 1)
        try:
            study = create_study(
                storage=JournalStorage(JournalFileBackend(str(journal))),
                study_name="search",
                pruner=pruner,
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{journal}: damaged ({error}); without it the search starts over, and each trial "
                "that was made is found"
            ) from error
        plan, settings = self._plan, self._plan.settings
        now = {"ranges": settings.search, "seed": settings.seed, "score": settings.score}
        now["parameters"] = self.corners[0].sameness
        begun = study.user_attrs.get("begun_with")
        if begun is None:
            study.set_user_attr("begun_with", now)
        elif changed := [name for name in now if begun[name] != now[name]]:
            raise InputError(
                f"sweep {plan.name}: was begun in {plan.folder} with different {changed[0]}; give "
                "it another name, or remove that folder"
            )
        return study


def command_line(plan: Plan, row: Row) -> str:
    """The `kedro run` that makes a trial once more, outside of the sweep where words can say it:
    in `--params` a comma ends a value."""
    values = {**dict(leaves(plan.params)), **row.varied}
    words = [f"{key}={said(value)}" for key, value in values.items()]
    if any("," in word for word in words):
        return f"kedro run --config {shlex.quote(str(plan.folder / row.trial / 'run.yml'))}"
    told = shlex.quote(",".join(words))
    return f"kedro run{f' --env {plan.env}' if plan.env else ''} --params {told}"
