"""The comparison as plain data and as one HTML page, whose words are in comparison.html."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.chart import chart
from ddpm_kedro.evaluation.comparison.costs import TITLES as COST_TITLES
from ddpm_kedro.evaluation.comparison.costs import costs
from ddpm_kedro.evaluation.comparison.differences import (
    Group,
    deviations,
    differing_parameters,
    groups,
    sentence,
)
from ddpm_kedro.evaluation.comparison.film import film, grid_at
from ddpm_kedro.evaluation.comparison.runs import Run
from ddpm_kedro.evaluation.curves import figure_of_logs
from ddpm_kedro.evaluation.distribution import LARGER_IS_BETTER
from ddpm_kedro.evaluation.report import MOST_PREVIEWS, filled, plus_minus, readable
from ddpm_kedro.evaluation.verdict import three_digits
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.rows import spread
from ddpm_kedro.plain import plain

COLOURS, DASHES = 5, 4  # without a common divisor: 20 runs have 20 different lines
CURVES = {"loss": "Loss", "held_out_loss": "Held-out loss", "quick_score": "Score of few samples"}
AXES = {"images_seen": "against images", "elapsed_seconds": "against time"}
MOST_PAIRED = 8  # runs whose pairs are shown
_ROW = 8  # samples in a row, on a narrow screen


@dataclass(frozen=True)
class Comparison:
    """Runs compared."""

    table: dict[str, Any]
    """Plain data: `verdict` in words, `runs` (by name, the best first: scores, by how many
    deviations each is worse than the best, cost) and `differences` (dotted parameter -> value by
    run)."""
    html: str
    """One page with everything in it, for a browser, a phone and paper; it loads nothing."""
    film: bytes
    """An animated WebP of what the runs drew while they trained."""


def compare(runs: Mapping[str, Path]) -> Comparison:
    """Compare finished runs, folders by name; equal files give an equal comparison.

    InputError where there is none, one was not evaluated, or a file in one is torn. Of samples only
    the first are read.
    """
    if not runs:
        raise InputError("no runs to compare")
    ranked = groups([Run.read(name, folder) for name, folder in runs.items()])
    ordered = [run for group in ranked for run in group.runs]
    taken, differing = costs(ordered), differing_parameters(ordered)
    names = [run.name for run in ordered]
    table = {
        "verdict": sentence(ranked),
        "runs": {
            run.name: {**_scores(run, group), **taken[run.name]}
            for group in ranked
            for run in group.runs
        },
        "differences": {
            key: dict(zip(names, values, strict=True)) for key, values in differing.items()
        },
    }
    kinds = {name: f"c{n % COLOURS} d{n % DASHES}" for n, name in enumerate(names)}
    animation = film(ordered)
    shown = spread(np.array(list(ordered[0].previews)), MOST_PREVIEWS) if len(ordered) == 1 else ()
    html = filled(
        "comparison/comparison.html",
        verdict=table["verdict"],
        groups=ranked,
        cell=_cell,
        deviations=deviations,
        most_paired=MOST_PAIRED,
        larger_is_better=LARGER_IS_BETTER,
        kinds=kinds,
        differing={key: list(map(_text, values)) for key, values in differing.items()},
        from_records=all(run.parameters for run in ordered),
        charts=_charts(ordered, kinds),
        samples=_samples(ordered),
        costs=taken,
        cost_titles={
            key: title
            for key, title in COST_TITLES.items()
            if any(cost[key] is not None for cost in taken.values())
        },
        film=f"data:image/webp;base64,{base64.b64encode(animation).decode()}",
        previews=[(seen, grid_at(ordered[0], seen)) for seen in shown],
    )
    return Comparison(plain(table), html, animation)


def _scores(run: Run, group: Group) -> dict[str, Any]:
    """The row of a run: its stamp, each score with its interval, and how far behind the best."""
    row: dict[str, Any] = {"stamp": run.stamp["stamp"]}
    for score in group.scores:
        row[score] = run.metrics.get(score)
        row[f"{score}_interval"] = run.metrics.get(f"{score}_interval")
        row[f"{score}_from_best"] = group.from_best(run, score)
    return row


def _cell(run: Run, group: Group, score: str) -> dict[str, str] | None:
    """What stands in the table of scores: the value, and in a word where it is from the best."""
    behind = group.from_best(run, score)
    if behind is None:
        return None
    kind, word = "", f"{three_digits(behind)} deviations worse"
    if len(group.runs) == 1:
        word = run.metrics.get(f"{score}_verdict") or ""
    elif run is group.best[score]:
        kind, word = "good", "best"
    elif behind < group.noise:
        word = f"within the noise ({three_digits(behind)})"
    value = plus_minus(run.metrics[score], run.metrics[f"{score}_interval"])
    return {"value": value, "word": word, "kind": kind}


def _text(value: Any) -> str:
    return "none" if value is None else readable(value)


def _charts(runs: Sequence[Run], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """The curves of all runs, of what any of them measured more than once."""
    logs = {run.name: run.log for run in runs}
    measured = [
        key for key in CURVES if any(sum(key in line for line in log) > 1 for log in logs.values())
    ]
    charts = [
        chart(figure_of_logs(f"{CURVES[key]} {words}", logs, key, against))
        for key in measured
        for against, words in AXES.items()
    ]
    for line in (line for drawing in charts for line in drawing["lines"]):
        line["kind"] = kinds[line["name"]]  # also where an earlier run has no such curve
    return charts


def _samples(runs: Sequence[Run]) -> list[tuple[Any, list[tuple[str, list[Image.Image]]]]]:
    """By the seed that they were drawn with: the first samples of each run, in rows that stand
    beside one another where there is room. A sample depends on the seed and its number alone."""
    by_noise: dict[Any, list[tuple[str, list[Image.Image]]]] = {}
    for run in runs:
        if run.samples is not None and len(run.samples):
            rows = [run.samples[:_ROW], run.samples[_ROW:]]
            pictures = [make_grid(row, columns=len(row)) for row in rows if len(row)]
            key = run.drawn.get("seed"), run.samples.shape[1:]
            by_noise.setdefault(key, []).append((run.name, pictures))
    return [(seed, rows) for (seed, _), rows in by_noise.items()]
