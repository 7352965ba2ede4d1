"""A search loses no trial and repeats none, however it is interrupted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.sweeps import search as search_module
from ddpm_kedro.sweeps import sweep
from ddpm_kedro.sweeps.plan import name_of
from ddpm_kedro.sweeps.search import Search, command_line
from ddpm_kedro.sweeps.search_space import SearchSpace
from ddpm_kedro.sweeps.settings import SweepSettings
from ddpm_kedro.sweeps.table import Score, table_of
from ddpm_kedro.sweeps.trial import Outcome, Trial

pytest.importorskip("optuna")

RANGES = {
    "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "training.batch_size": {"low": 32, "high": 256, "step": 32},
    "optimizer": ["adam", "sgd"],
}
SCORES = 8  # of each trial
PROGRESS = SimpleNamespace(skip=lambda trial, line: None)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class FakeTrial(Trial):
    """A trial whose parameters are only what a search looks at."""

    sameness = "the same"

    def write(self, num_scores: int, finished: bool = False) -> None:
        """The log of a training that has come so far, and what its evaluation would find."""
        lr, batch_size = self.varied["training.optimizer.lr"], self.varied["training.batch_size"]
        final = (math.log10(lr) + 2) ** 2 + batch_size / 256
        log = self.folder / "06_models/trainings/0/log.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        seen = [math.ceil(1000 * n / batch_size) * batch_size for n in range(1, num_scores + 1)]
        records = [{"images_seen": n, "quick_score": final + 1 / k} for k, n in enumerate(seen, 1)]
        log.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        if finished:
            metrics = self.folder / "08_reporting/metrics.json"
            metrics.parent.mkdir(exist_ok=True)
            metrics.write_text(json.dumps({"mind": final, "stamp": "s"}))


@dataclass
class FakePlan:
    """A plan without a project."""

    folder: Path
    name: str = "lr"
    settings: Any = field(default_factory=lambda: settings())
    naming = staticmethod(contextlib.nullcontext)

    def trial(self, varied: dict[str, Any]) -> Trial:
        training = SimpleNamespace(score_every_kimg=1.0, budget_kimg=float(SCORES))
        parameters: Any = SimpleNamespace(training=training)
        name = name_of(varied, varied)
        return FakeTrial(name, self.folder / name, None, varied, varied, parameters)


def settings(**changed: Any) -> SimpleNamespace:
    usual = dict(search=RANGES, trials=12, prune=True, seed=0, score="mind")
    return SimpleNamespace(**{**usual, **changed})


class FakeScheduler:
    """Does trials in this process, `at_once` of them in turn; dies after `lifetime` scores, and
    trials that `fails` names fail. It looks at each `look`-th score. `started` are the names in
    their order."""

    def __init__(
        self, lifetime: float = math.inf, at_once: int = 1, fails: Any = (), look: int = 1
    ) -> None:
        self.lifetime, self.at_once, self.fails, self.look = lifetime, at_once, fails, look
        self.started: list[str] = []

    def run(self, trials: Any, is_hopeless: Any) -> Any:
        running: dict[str, tuple[Any, int]] = {}
        while True:
            while len(running) < self.at_once and (trial := next(trials, None)) is not None:
                running[trial.name] = trial, 0
                self.started.append(trial.name)
            if not running:
                return
            for name, (trial, num_scores) in list(running.items()):
                if self.lifetime <= 0:
                    raise KeyboardInterrupt
                self.lifetime -= 1
                num_scores += 1
                running[name] = trial, num_scores
                trial.write(num_scores, finished=num_scores == SCORES)
                process = SimpleNamespace(trial=trial)
                if num_scores == SCORES:
                    state = "failed" if name in self.fails else "finished"
                elif num_scores % self.look == 0 and is_hopeless(process):
                    state = "stopped"
                else:
                    continue
                del running[name]
                metrics = trial.result() if state == "finished" else {}
                yield Outcome(trial, state, metrics=metrics)


def searched(folder: Path, scheduler: FakeScheduler | None = None, **changed: Any) -> list[Outcome]:
    search = Search(FakePlan(folder, settings=settings(**changed)))
    return search.run(
        scheduler or FakeScheduler(), PROGRESS, Score("mind"), lambda trial: trial.result()
    )


def summary(outcomes: list[Outcome]) -> set[tuple[Any, ...]]:
    return {(each.trial.name, each.state, each.reason, str(each.metrics)) for each in outcomes}


def test_an_interrupted_search_ends_in_the_trials_of_an_undisturbed_one(tmp_path):
    undisturbed = summary(searched(tmp_path / "undisturbed"))
    assert len(undisturbed) == 12
    assert {state for _, state, _, _ in undisturbed} == {"finished", "stopped"}
    lives, started, interruptions = random.Random(0), [], -1
    outcomes = None
    while outcomes is None:
        scheduler, interruptions = FakeScheduler(lives.randrange(1, 2 * SCORES)), interruptions + 1
        with contextlib.suppress(KeyboardInterrupt):
            outcomes = searched(tmp_path / "interrupted", scheduler)
        started += scheduler.started
    assert summary(outcomes) == undisturbed
    assert interruptions > 3
    assert len(started) <= 12 + interruptions  # each begins the one at work once more, no other
    assert set(started) == {name for name, *_ in undisturbed}


def test_a_journal_cut_anywhere_goes_on(tmp_path):
    whole = tmp_path / "whole"
    undisturbed = summary(searched(whole, trials=7))
    journal = (whole / "optuna.log").read_bytes()
    cuts = random.Random(1)
    for cut in sorted(cuts.sample(range(len(journal)), 8)):
        (whole / "optuna.log").write_bytes(journal[:cut])
        (whole / "optuna.log.lock").symlink_to("optuna.log")
        assert summary(searched(whole, trials=7)) == undisturbed, cut


def test_it_makes_no_difference_how_often_is_looked(tmp_path):
    often, seldom = searched(tmp_path / "a"), searched(tmp_path / "b", FakeScheduler(look=3))
    assert summary(often) == summary(seldom)
    assert "stopped" in {each.state for each in often}


def test_several_at_once_lose_none(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, FakeScheduler(30, at_once=3))
    outcomes = searched(tmp_path, FakeScheduler(at_once=3))
    assert len({each.trial.name for each in outcomes}) == len(outcomes) == 12


def test_a_failed_trial_is_tried_again_and_the_rest_go_on(tmp_path):
    first = FakeScheduler()
    searched(tmp_path / "undisturbed", first)
    fails = first.started[2]
    outcomes = searched(tmp_path / "failing", FakeScheduler(fails=[fails]))
    assert [each.trial.name for each in outcomes if each.state == "failed"] == [fails]
    assert len(outcomes) == 12
    again = FakeScheduler()
    outcomes = searched(tmp_path / "failing", again)
    assert again.started == [fails]
    assert len(outcomes) == 12
    assert {each.state for each in outcomes} == {"finished", "stopped"}


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    few = {each.trial.name for each in searched(tmp_path, trials=4)}
    scheduler = FakeScheduler()
    many = {each.trial.name for each in searched(tmp_path, scheduler, trials=6)}
    assert few < many
    assert set(scheduler.started) == many - few


def test_what_a_finished_trial_made_is_made_again_where_it_is_gone(tmp_path):
    outcomes = searched(tmp_path)
    gone = next(each.trial for each in outcomes if each.state == "finished")
    shutil.rmtree(gone.folder)
    again = FakeScheduler()
    assert summary(searched(tmp_path, again)) == summary(outcomes)
    assert again.started == [gone.name]


def test_each_of_few_choices_is_tried_once(tmp_path):
    ranges = {
        "training.optimizer.lr": [0.1, 0.01, 0.001],
        "training.batch_size": {"low": 32, "high": 100, "step": 32},  # 32, 64 and 96
    }
    outcomes = searched(tmp_path / "all", search=ranges, trials=9, prune=False)
    assert len({each.trial.name for each in outcomes}) == 9
    assert {each.state for each in outcomes} == {"finished"}
    with pytest.raises(InputError, match="trials=10: the ranges hold 9 different"):
        searched(tmp_path / "more", search=ranges, trials=10)


def test_what_is_given_up_stands_last_with_its_quick_score(tmp_path):
    rows = table_of(searched(tmp_path), Score("mind"))
    pruned = [row for row in rows if row.state == "stopped"]
    assert rows[-len(pruned) :] == pruned
    assert rows[0].rank == 1
    for row in pruned:
        lines = (tmp_path / row.trial / "06_models/trainings/0/log.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])["quick_score"]
        assert 3 <= len(lines) < SCORES  # the first third is spared
        assert row.note.endswith(f"given up at {len(lines)} kimg, quick score {last:.4g}")


def test_seeds_and_scores_decide_what_is_tried(tmp_path):
    schedulers = FakeScheduler(), FakeScheduler(), FakeScheduler()
    for scheduler, seed, folder in zip(schedulers, (0, 0, 1), "abc", strict=True):
        searched(tmp_path / folder, scheduler, seed=seed)
    one, same, other = (scheduler.started for scheduler in schedulers)
    assert one == same
    assert not set(one) & set(other)


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"seed": 1}, "seed"), ({"search": {**RANGES, "optimizer": ["adam"]}}, "ranges")],
)
def test_a_changed_search_is_another_one(tmp_path, changed, word):
    searched(tmp_path, trials=1)
    with pytest.raises(InputError, match=f"was begun in .* with different {word}; give"):
        searched(tmp_path, **changed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "one or more elements"),
        (3, "give a list of values, or low and high"),
        ({"low": 1}, "give a list of values, or low and high"),
        ({"low": 1, "high": 2, "stepp": 1}, "give a list of values, or low and high"),
        ({"low": "a", "high": 2}, "give finite numbers"),
        ({"low": 1, "high": math.inf}, "give finite numbers"),
        ({"low": 1.0, "high": 0.1}, "low <= high"),
        ({"low": 0.0, "high": 0.1, "log": True}, "low > 0"),
        ({"low": 1, "high": 5, "step": 0}, "step > 0"),
    ],
)
def test_a_wrong_range_is_refused(given, message):
    with pytest.raises(InputError, match=message) as refused:
        SearchSpace({"training.batch_size": given})
    assert str(refused.value).startswith("search.training.batch_size=")
    assert "\n" not in str(refused.value)


def test_each_end_and_choice_is_looked_at_before_the_first_trial(tmp_path, monkeypatch):
    looked_at = SearchSpace(RANGES).corners()
    for name, given in RANGES.items():
        ends = given if isinstance(given, list) else [given["low"], given["high"]]
        assert {corner[name] for corner in looked_at} == set(ends)

    def refuse(plan, varied):
        if varied["training.batch_size"] == 256:
            raise InputError("too many")
        return make(plan, varied)

    make = FakePlan.trial
    monkeypatch.setattr(FakePlan, "trial", refuse)
    scheduler = FakeScheduler()
    with pytest.raises(InputError, match="too many"):
        searched(tmp_path, scheduler)
    assert not scheduler.started


def test_what_does_not_go_together_is_drawn_anew(tmp_path, monkeypatch):
    def refuse(plan, varied):
        if varied["training.batch_size"] == 256 and varied["optimizer"] == "sgd":
            raise InputError("these do not go together")
        return make(plan, varied)

    make = FakePlan.trial
    monkeypatch.setattr(FakePlan, "trial", refuse)
    ranges = {**RANGES, "training.batch_size": [32, 256]}
    outcomes = searched(tmp_path / "some", search=ranges)
    assert len({each.trial.name for each in outcomes}) == 12
    few = {**ranges, "training.optimizer.lr": [0.1]}
    assert len(searched(tmp_path / "all", search=few, trials=3)) == 3
    monkeypatch.setattr(search_module, "MOST_DRAWS", 30)
    with pytest.raises(InputError, match="nothing new in its ranges fits together"):
        searched(tmp_path / "more", search=few, trials=4)


def test_a_damaged_journal_is_named(tmp_path):
    searched(tmp_path, trials=2)
    journal = tmp_path / "optuna.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], b"{\n", *lines[5:]]))
    with pytest.raises(InputError, match=r"optuna\.log: damaged"):
        searched(tmp_path, trials=2)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"search": RANGES}, "give trials as a list, or as a number with search"),
        ({"trials": 3}, "give trials as a list, or as a number with search"),
        ({"search": RANGES, "trials": 0}, "trials=0: input should be greater"),
        ({"search": RANGES, "trials": 3, "over": {"seed": [0]}}, "neither over nor halving"),
        ({"search": RANGES, "trials": 3, "halving": 1}, "neither over nor halving"),
    ],
)
def test_a_search_is_told_by_its_ranges_and_a_number(tree, message):
    with pytest.raises(InputError, match=message):
        SweepSettings.of("mine", tree)


def test_a_search_is_a_sweep(folder, run, monkeypatch):
    monkeypatch.setattr(sweep, "_is_made", lambda trial: trial.result())
    lr = "training.optimizer.lr"  # 0.3 is the best for what stands for `kedro run` here
    tree = {"search": {lr: {"low": 0.2, "high": 0.9}}, "trials": 3, "prune": False}
    rows = run(**tree)
    assert [row.rank for row in rows.values()] == [1, 2, 3]
    rates = [row.varied[lr] for row in rows.values()]
    assert rates == sorted(rates, key=lambda rate: abs(rate - 0.3))
    assert run(**tree) == rows
    starts = [len(path.read_text().splitlines()) for path in folder.glob("*/starts.txt")]
    assert starts == [1, 1, 1]
    best = next(iter(rows.values()))
    plan = fakes.plan_of(folder, **tree)
    assert command_line(plan, best) == f"kedro run --env smoke --params {lr}={rates[0]:g}"
    listed = replace(best, varied={"a": [1, 2]})
    assert command_line(plan, listed) == f"kedro run --config {folder / best.trial / 'run.yml'}"


def test_pruning_without_quick_scores_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SCORES", 0.5)
    with pytest.raises(InputError, match="no quick score within"):
        searched(tmp_path)


def test_without_optuna_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'pip install "ddpm_kedro\[optuna\]"'):
        searched(tmp_path)


def test_optuna_says_nothing_itself(tmp_path, capfd, recwarn):
    searched(tmp_path)
    searched(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not [str(warning.message) for warning in recwarn]
