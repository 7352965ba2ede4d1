"""All scores of one kind of features, each beside what real images score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.feature_tensors import feature_tensors
from ddpm_kedro.evaluation.frechet import FrechetScores
from ddpm_kedro.evaluation.mind import MindScores
from ddpm_kedro.evaluation.pairs import PairScores
from ddpm_kedro.evaluation.standing import Standing

SCORES_VERSION = 1  # part of the stamp: raised when a score of the same features changes
SCORES = ("mind", "kid", "frechet", "coverage", "recall")
LARGER_IS_BETTER = ("coverage", "recall")
FLOOR_DRAWS = 20  # sets of real images whose scores are the floor


def distribution_scores(
    samples: np.ndarray,
    reference: np.ndarray,
    real: np.ndarray,
    seed: int = 0,
    *,
    names: Collection[str] = SCORES,
    device: torch.device | str | None = None,
) -> dict[str, Standing]:
    """Score features of samples (n, d) against those of a reference (n, d), beside the floor.

    `real` (p, d), p >= 2 n, are features of other real images: 20 random sets of n of them are
    scored against the same reference. `seed` draws these sets and the resamples. Of `names`, in
    order: `mind`, `kid` and `frechet`, smaller is better, `coverage` and `recall`, larger is
    better. KID has its `std_error` beside it, the Frechet distance `at_n` and `closed_form` (see
    `FrechetScores`), and its ratio is that of the plain distances. Products are taken on `device`,
    the CPU.

    InputError as `feature_tensors`, where samples and reference differ in number, and where there
    are too few real images.
    """
    drawn, held, pool = feature_tensors(device, samples=samples, reference=reference, real=real)
    count = len(drawn)
    if len(held) != count or len(pool) < 2 * count:
        raise InputError(
            f"{count:,} samples, a reference of {len(held):,} and {len(pool):,} other real images: "
            "a comparison needs as many in the reference as samples, and twice as many others"
        )
    generator = np.random.default_rng(seed)
    subsets = [np.sort(generator.permutation(len(pool))[:count]) for _ in range(FLOOR_DRAWS)]
    values: dict[str, float] = {}
    floors: dict[str, np.ndarray] = {}
    deviations: dict[str, float] = {}
    for scores in _families(held, pool, names):
        found = scores.values(drawn, [np.arange(count)])
        values |= {name: float(value[0]) for name, value in found.items()}
        floors |= scores.values(pool, subsets)
        deviations |= scores.deviations(drawn, np.random.default_rng((seed, 1)))
    return {
        name: Standing.of(
            values[name],
            floors[name],
            deviations[name],
            count,
            len(pool),
            larger_is_better=name in LARGER_IS_BETTER,
            **_beside(name, values, floors, deviations),
        )
        for name in names
    }


def _families(
    reference: torch.Tensor, pool: torch.Tensor, names: Collection[str]
) -> Iterator[MindScores | PairScores | FrechetScores]:
    """Yield what has the scores of `names`, one after the other: each holds much memory."""
    if "mind" in names:
        yield MindScores(reference)
    if not {"kid", "coverage", "recall"}.isdisjoint(names):
        yield PairScores(reference)
    if "frechet" in names:
        yield FrechetScores(reference, pool)


def _beside(
    name: str,
    values: Mapping[str, float],
    floors: Mapping[str, np.ndarray],
    deviations: Mapping[str, float],
) -> dict[str, Any]:
    """Ratio to the floor and further values of a score; the ratio is of scores biased alike."""
    if name == "mind":
        return {"ratio": _ratio(values[name], floors[name])}
    if name == "kid":
        return {"extras": {"std_error": deviations["kid"]}}
    if name == "frechet":
        extras = {key: values[key] for key in ("at_n", "closed_form")}
        return {"ratio": _ratio(values["at_n"], floors["at_n"]), "extras": extras}
    return {}


def _ratio(value: float, floors: np.ndarray) -> float | None:
    floor = float(np.mean(floors))
    return value / floor if floor > 0 else None
