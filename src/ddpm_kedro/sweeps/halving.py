"""Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): the better half goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ddpm_kedro.errors import InputError
from ddpm_kedro.sweeps.table import Score
from ddpm_kedro.sweeps.trial import Outcome, Trial


class Halving:
    """Trains all `trials` for `from_kimg`, the better half of them twice as long, and so on, until
    the last rung takes the whole budget. InputError where budgets leave no two rungs."""

    def __init__(self, trials: Sequence[Trial], from_kimg: float) -> None:
        budgets = {trial.budget_kimg for trial in trials}
        budget = min(budgets)
        if len(budgets) > 1:
            raise InputError(
                f"halving={from_kimg:g}: raises training.budget_kimg, which the trials vary"
            )
        if from_kimg >= budget:
            raise InputError(
                f"halving={from_kimg:g}: the first rung's budget has to lie below "
                f"training.budget_kimg={budget:g}"
            )
        count = math.ceil(math.log2(budget / from_kimg))
        self.trials, self.rungs = trials, [from_kimg * 2**rung for rung in range(count)] + [budget]

    @property
    def sizes(self) -> list[int]:
        """Trials of each rung, where all have a score and one stamp."""
        return [math.ceil(len(self.trials) / 2**rung) for rung in range(len(self.rungs))]

    @property
    def num_images(self) -> int:
        """What all rungs train on together."""
        first = [self.at(self.trials[0], rung) for rung in range(len(self.rungs))]
        return sum(n * trial.images_ahead for n, trial in zip(self.sizes, first, strict=True))

    def at(self, trial: Trial, rung: int) -> Trial:
        """The trial on a rung; what its training goes on from is the budget below, or nothing where
        its rates depend on the budget."""
        below = trial.with_budget(self.rungs[rung - 1]).parameters.training if rung else None
        settled = below.settled_images if below else 0
        return trial.with_budget(self.rungs[rung], rung, settled)

    def starting_over(self) -> list[Trial]:
        """The trials that each rung trains from the start."""
        return [trial for trial in self.trials if not self.at(trial, 1).images_before]

    def going_on(self, ended: Mapping[str, Outcome], score: Score) -> list[Trial]:
        """The trials of the next rung, by how those of this one ended: only outcomes of equal
        stamp are compared, and of each stamp the better half goes on."""
        names = (trial.name for trial in self.trials)
        groups = score.ranked(ended[name] for name in names if name in ended)
        best = {each.trial.name for group in groups for each in group[: -(-len(group) // 2)]}
        return [trial for trial in self.trials if trial.name in best]
