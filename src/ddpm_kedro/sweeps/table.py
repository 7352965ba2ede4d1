"""The end of a sweep: its trials by their score, as text, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.metric_names import LARGER_IS_BETTER, badness, explanation
from ddpm_kedro.files import atomic_write
from ddpm_kedro.plain import plain
from ddpm_kedro.sweeps.plan import said
from ddpm_kedro.sweeps.trial import Outcome


@dataclass(frozen=True)
class Score:
    """The number of metrics.json that ranks trials."""

    name: str

    def check(self) -> None:
        """InputError where no evaluation has such a number."""
        try:
            explanation(self.name)
        except KeyError:
            raise InputError(f"score={self.name}: no metric; mind and kid are some") from None

    def of(self, outcome: Outcome) -> float | None:
        """The score of a finished trial, None where it has none."""
        is_there = math.isfinite(badness(outcome.metrics, self.name))
        return outcome.metrics[self.name] if is_there else None

    def ranked(self, outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
        """The outcomes with a score, those of a stamp together, as no others compare: the largest
        group first, and in each the best first, of those that were trained furthest."""
        groups: dict[Any, list[Outcome]] = {}
        for outcome in outcomes:
            if self.of(outcome) is not None:
                groups.setdefault(outcome.metrics.get("stamp"), []).append(outcome)
        for group in groups.values():
            group.sort(key=lambda each: (-each.trial.rung, badness(each.metrics, self.name)))
        return sorted(groups.values(), key=len, reverse=True)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    rank: int | None
    """None for what cannot be compared with the first."""
    trial: str
    state: str
    varied: Mapping[str, Any]
    score: float | None
    interval: float | None
    """Half the width of the score's 95% interval, None where nobody knows it."""
    stamp: str | None
    budget_kimg: float
    note: str


def table_of(outcomes: Sequence[Outcome], score: Score) -> list[Row]:
    """The rows of all trials, best first; what is not comparable or has no score stands below."""
    placed, last = [], max(outcome.trial.rung for outcome in outcomes)
    for number, group in enumerate(score.ranked(outcomes)):
        for place, outcome in enumerate(group, start=1):
            note = "" if outcome.trial.rung == last else "not trained further"
            note = "not comparable: another stamp" if number else note
            placed.append((None if number else place, outcome, note))
    for outcome in outcomes:
        if score.of(outcome) is None:
            why = outcome.reason or f"no {score.name} was measured"
            note = why if outcome.state == "finished" else f"{outcome.state}: {why}"
            placed.append((None, outcome, note))
    return [
        Row(
            rank,
            outcome.trial.name,
            outcome.state,
            outcome.trial.varied,
            score.of(outcome),
            outcome.metrics.get(f"{score.name}_interval"),
            outcome.metrics.get("stamp"),
            outcome.trial.budget_kimg,
            note,
        )
        for rank, outcome, note in placed
    ]


def as_text(rows: Sequence[Row], score: str) -> str:
    """The table for a terminal."""
    cells = [("", "trial", score, "")]
    for row in rows:
        value = "-" if row.score is None else f"{row.score:.4g}"
        value += "" if row.interval is None else f" ± {row.interval:.2g}"
        cells.append((str(row.rank or "-"), row.trial, value, row.note))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def write(rows: Sequence[Row], score: Score, sweep: str, folder: Path) -> None:
    """Write table.json and table.csv, each whole; nothing in them depends on time."""
    told = {"version": 1, "sweep": sweep, "score": score.name}
    told |= {"larger_is_better": score.name in LARGER_IS_BETTER, "rows": [*map(asdict, rows)]}
    with atomic_write(folder / "table.json", "w") as file:
        json.dump(plain(told), file, indent=2)
    keys = list(dict.fromkeys(key for row in rows for key in row.varied))
    with atomic_write(folder / "table.csv", "w") as file:
        lines = csv.writer(file, lineterminator="\n")
        named = ["rank", "trial", *keys, score.name, f"{score.name}_interval"]
        lines.writerow([*named, "stamp", "budget_kimg", "note"])
        for row in rows:
            varied = [said(row.varied[key]) if key in row.varied else "" for key in keys]
            ends = [row.score, row.interval, row.stamp, row.budget_kimg, row.note]
            lines.writerow([row.rank, row.trial, *varied, *ends])
