"""Only scores of one stamp are ranked together, and nothing in the files depends on time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.sweeps.table import Score, as_text, table_of, write
from ddpm_kedro.sweeps.trial import Outcome


def ended(name: str, score: float | None, *, stamp: str = "a", rung: int = 0, seconds=1.0, **more):
    trial = SimpleNamespace(name=name, varied={"optimizer": name}, budget_kimg=1.0, rung=rung)
    metrics = {"mind": score, "recall": score, "mind_interval": 0.5, "stamp": stamp}
    state = more.pop("state", "finished")
    metrics = metrics if state == "finished" else {}
    return Outcome(trial, state, metrics=metrics, seconds=seconds, **more)


OUTCOMES = [
    ended("failed", None, state="failed", reason="it broke"),
    ended("other", 0.1, stamp="b"),
    ended("second", 2.0),
    ended("unmeasured", None),
    ended("first", 1.0),
    ended("infinite", float("inf")),
]


def test_the_best_stand_first_and_what_does_not_compare_below():
    rows = table_of(OUTCOMES, Score("mind"))
    assert [(row.rank, row.trial) for row in rows] == [
        (1, "first"), (2, "second"), (None, "other"),
        (None, "failed"), (None, "unmeasured"), (None, "infinite"),
    ]  # fmt: skip
    notes = {row.trial: row.note for row in rows}
    assert notes["other"] == "not comparable: another stamp"
    assert notes["failed"] == "failed: it broke"
    assert notes["unmeasured"] == "no mind was measured"


def test_a_score_may_be_better_the_larger_it_is():
    rows = table_of([ended("a", 0.2), ended("b", 0.9)], Score("recall"))
    assert [row.trial for row in rows] == ["b", "a"]


def test_who_was_trained_further_stands_above():
    rows = table_of([ended("dropped", 0.1), ended("kept", 0.9, rung=1)], Score("mind"))
    assert [(row.trial, row.note) for row in rows] == [
        ("kept", ""),
        ("dropped", "not trained further"),
    ]


def test_the_order_of_equal_scores_is_the_plans():
    rows = table_of([ended("b", 1.0), ended("a", 1.0)], Score("mind"))
    assert [row.trial for row in rows] == ["b", "a"]


def test_an_unknown_score_is_refused():
    with pytest.raises(InputError, match="score=mnid: no metric"):
        Score("mnid").check()


def test_the_files_hold_the_table_and_no_time(tmp_path):
    written = []
    for seconds in (1.0, 2.0):
        rows = table_of([ended("a", 0.25, seconds=seconds), OUTCOMES[0]], Score("mind"))
        write(rows, Score("mind"), "mine", tmp_path)
        written.append([(tmp_path / f"table.{kind}").read_text() for kind in ("csv", "json")])
    assert written[0] == written[1]
    table, told = written[0]
    assert table.splitlines() == [
        "rank,trial,optimizer,mind,mind_interval,stamp,budget_kimg,note",
        "1,a,a,0.25,0.5,a,1.0,",
        ",failed,failed,,,,1.0,failed: it broke",
    ]
    rows = json.loads(told)["rows"]
    assert rows[0] | {"rank": 1, "score": 0.25, "varied": {"optimizer": "a"}} == rows[0]


def test_the_text_is_aligned():
    assert as_text(table_of(OUTCOMES[:3], Score("mind")), "mind").splitlines() == [
        "   trial   mind",
        "1  other   0.1 ± 0.5",
        "-  second  2 ± 0.5    not comparable: another stamp",
        "-  failed  -          failed: it broke",
    ]
