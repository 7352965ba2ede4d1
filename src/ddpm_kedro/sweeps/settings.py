"""What a sweep in `conf/*/sweep.yml` may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import CLOSED, read
from ddpm_kedro.ranges import Check, Count, Positive, Seed, Switch, checked, require

_NAME = re.compile(r"[\w][\w.,=+-]*")  # it becomes a folder


def _trials(value: Any) -> list[dict[str, Any]] | int:
    if isinstance(value, list):
        require(all(isinstance(each, Mapping) for each in value), "give a table for each trial")
        return value
    return checked(Count, value)


@dataclass(frozen=True)
class SweepSettings:
    """One sweep of the file. The trials are every entry of `trials`, each with every combination of
    the values in `over`; keys are dotted paths of parameters."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    over: dict[str, list[Any]] = field(default_factory=dict)
    """A grid: for each parameter the values to try."""
    trials: Annotated[list[dict[str, Any]] | int, Check(_trials)] = field(default_factory=list)
    """What differs in each trial, as in `{optimizer: sgd, augmentation: flip}`; their number where
    there is a `search`."""
    search: dict[str, Any] = field(default_factory=dict)
    """For each parameter a range or a list, from which optuna draws the trials; see `search.py`."""
    prune: Switch = True
    """Give trials of a search up whose quick scores stay behind."""
    seed: Seed = 0
    """Of what a search draws."""
    params: dict[str, Any] = field(default_factory=dict)
    """Parameters of all trials."""
    env: str | None = None
    """The preset of all trials."""
    score: str = "mind"
    """A key of metrics.json to rank by."""
    workers: Count | None = None
    """Trials at a time; None: one for each GPU, one on a CPU."""
    halving: Positive | None = None
    """Budget in kimg of the first rung: all trials are trained so far, the better half goes on to
    twice that, and so forth up to `training.budget_kimg`. None: all trials take their budget."""

    @classmethod
    def of(cls, name: str, tree: Any) -> SweepSettings:
        """The checked entry `name` of the file; InputError in one line says what is wrong."""
        if not _NAME.fullmatch(name):
            raise InputError(f"sweep {name}: it names a folder, so use letters, digits, - and _")
        try:
            if not isinstance(tree, Mapping):
                raise InputError("give over (a grid) or trials (a list)")
            settings = read(cls, tree)
            if isinstance(settings.trials, int) != bool(settings.search):
                raise InputError("give trials as a list, or as a number with search")
            if settings.search and (settings.over or settings.halving):
                raise InputError("search takes neither over nor halving beside it")
            return settings
        except InputError as error:
            raise InputError(f"sweep {name}: {error}") from error
