"""Which differences between runs there are, and which of them exceed the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from ddpm_kedro.evaluation.comparison.runs import Run
from ddpm_kedro.evaluation.metric_names import TITLES, badness
from ddpm_kedro.evaluation.report import plus_minus
from ddpm_kedro.evaluation.verdict import three_digits

DEVIATIONS = 2.0  # of one pair of runs: chance exceeds them once in 22 times
MOST_NAMED = 4  # in a sentence
LEAD = "mind"  # the score that runs are put in order by
_ABSENT = "not given"
_OF_SPEC = ("backbone", "noise_schedule", "objective", "loss_weight", "sampler")
_OF_DRAWING = ("num_samples", "seed", "sampler", "weights", "guidance", "label", "precision")


class Group:
    """Runs whose scores compare, best first: those of one stamp, or one run that has none."""

    def __init__(self, runs: Sequence[Run]) -> None:
        known = [score for score in TITLES if any(is_scored(run, score) for run in runs)]
        self.scores = known
        self.lead = LEAD if LEAD in known else next(iter(known), None)
        self.runs = sorted(runs, key=lambda run: _badness(run, self.lead))
        self.stamp = self.runs[0].stamp
        self.noise = noise_from(len(runs))
        self.best = {score: min(runs, key=lambda run: _badness(run, score)) for score in known}

    def from_best(self, run: Run, score: str) -> float | None:
        """By how many deviations a run is worse than the best; None where it has no such score."""
        return deviations(run, self.best[score], score) if is_scored(run, score) else None


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by stamp, the largest group first; nothing tells what old runs compare with."""
    by_stamp: dict[Any, list[Run]] = {}
    for run in runs:
        by_stamp.setdefault(run.stamp["stamp"] or run.name, []).append(run)
    return [Group(found) for found in sorted(by_stamp.values(), key=lambda found: -len(found))]


def sentence(ranked: Sequence[Group]) -> str:
    """Which run is best, by how much, and whether that exceeds the noise: of each group, and of a
    single run what its own verdict says."""
    if len(ranked) == 1 and len(ranked[0].runs) == 1:
        only = ranked[0].runs[0]
        return only.metrics.get("verdict") or f"{only.name} alone is compared with nothing."
    which = " of stamp {}" if len(ranked) > 1 else ""
    said = [
        _best_of(group, which.format(group.stamp["stamp"]))
        for group in ranked
        if len(group.runs) > 1 and group.lead
    ]
    if not said:
        return "No two of the runs have scores of one stamp, so none can be called better."
    if which:
        said.append("Scores of different stamps do not compare.")
    return " ".join(said)


def _best_of(group: Group, which: str) -> str:
    score, title = group.lead, TITLES[group.lead]
    first, *others = [run for run in group.runs if is_scored(run, score)]
    count = f"Of {len(group.runs)} runs{which} {first.name} is best"
    if not others:
        return f"{count}, the only one with {title}."
    values = [
        plus_minus(run.metrics[score], run.metrics[f"{score}_interval"])
        for run in (first, others[0])
    ]
    behind = {run.name: deviations(run, first, score) for run in others}
    limit = f"{three_digits(group.noise)} among {len(group.runs)} runs"
    apart = behind[others[0].name]
    said = (
        f"{count}: {title} {values[0]}, against {values[1]} of {others[0].name}, the next. They "
        f"are {three_digits(apart)} deviations apart, which "
        f"{'exceeds' if apart >= group.noise else 'is within'} the noise ({limit})."
    )
    if equal := [name for name, apart in behind.items() if apart < group.noise]:
        said += f" Chance alone may set {_listed(equal)} apart from {first.name}."
    if first.metrics.get("memorisation_suspected"):
        said += f" But some samples of {first.name} are probably copies of training images."
    return said


def noise_from(count: int) -> float:
    """From how many deviations on a difference among `count` runs exceeds the noise.

    For two runs 2. The best of many is chosen for being so, which looks at all pairs: the chance
    that any of equal runs seem different is kept at that of one pair (Bonferroni, which holds
    although the pairs share runs and the reference). 3 runs: 2.43, 6: 2.96, 20: 3.67.
    """
    pairs = max(1, count * (count - 1) // 2)
    return -NormalDist().inv_cdf(NormalDist().cdf(-DEVIATIONS) / pairs)


def deviations(run: Run, other: Run, score: str) -> float:
    """By how many standard deviations of their difference `run` is worse than `other`, negative
    where it is better. Both have the score, whose interval is 1.96 deviations.

    The two are taken as independent. Runs of one stamp share their reference, and often the noise
    of their samples, which makes the difference more certain than that, if anything.
    """
    worse = badness(run.metrics, score) - badness(other.metrics, score)
    spread = math.hypot(*(r.metrics[f"{score}_interval"] / 1.96 for r in (run, other)))
    return worse / spread if spread else math.copysign(math.inf, worse) if worse else 0.0


def differing_parameters(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The parameters that are not the same in all runs, dotted, with the value of each run.

    Of the records of what made the runs; where a run has none, what the model files and the cards
    of samples tell is compared of all of them.
    """
    trees = [run.parameters for run in runs]
    if None in trees:
        trees = [_told_by_model(run) for run in runs]
    return dict(_differing(trees))


def _differing(values: Sequence[Any], key: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Options of one type are compared argument by argument, whatever path names the type."""
    if all(isinstance(value, Mapping) for value in values):
        types = {str(value.get("type")).rpartition(".")[2] for value in values}
        if len(types) == 1:
            for name in dict.fromkeys(name for value in values for name in value if name != "type"):
                inner = [value.get(name, _ABSENT) for value in values]
                yield from _differing(inner, f"{key}.{name}" if key else name)
            return
    if any(value != values[0] for value in values):
        yield key, list(values)


def _told_by_model(run: Run) -> dict[str, Any]:
    origin = run.model.get("provenance", {})
    training = {name: run.model.get(name) for name in _OF_SPEC} | origin.get("training", {})
    return {
        "training": training | _part(origin, ("seed", "images_seen", "num_images")),
        "sampling": _part(run.drawn, _OF_DRAWING),
        "evaluation": _part(run.stamp, ("features", "n", "reference")),
    }


def _part(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: tree[name] for name in names if name in tree}


def is_scored(run: Run, score: str) -> bool:
    return None not in (run.metrics.get(score), run.metrics.get(f"{score}_interval"))


def _badness(run: Run, score: str | None) -> float:
    return badness(run.metrics, score) if score and is_scored(run, score) else math.inf


def _listed(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} others"]
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
