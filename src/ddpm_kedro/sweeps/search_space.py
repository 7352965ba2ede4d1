"""The ranges of a search, in optuna's words."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

from ddpm_kedro.errors import InputError

DIGITS = 4  # of a number: nobody tells more of them apart, and folders have short names
_KEYS = {"low", "high", "log", "step"}


class SearchSpace:
    """What `search` says in a sweep file: under each parameter's name a list of values, or a table
    with `low`, `high` and perhaps `log: true` or `step`, of whole numbers where all of these are.
    InputError in one line for anything else, or where optuna is not installed.

    `distributions` are the same for `Study.ask`. Choices are JSON there, so that lists and tables
    can be some of them.
    """

    def __init__(self, search: Mapping[str, Any]) -> None:
        self.distributions = {name: _distribution(name, given) for name, given in search.items()}

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters for what optuna has drawn."""
        return {name: _value(each, drawn[name]) for name, each in self.distributions.items()}

    def corners(self) -> list[dict[str, Any]]:
        """Parameters to check before a search starts: the first choice or end of each range, and
        every other one with the first of the others."""
        ends = {
            name: _choices(each) or (each.low, each.high)
            for name, each in self.distributions.items()
        }
        first = {name: drawn[0] for name, drawn in ends.items()}
        others = [{**first, name: each} for name, drawn in ends.items() for each in drawn[1:]]
        return [self.values(drawn) for drawn in (first, *others)]

    @property
    def num_different(self) -> float:
        """How many different parameters can be drawn."""
        return math.prod(
            len(_choices(each))
            or (each.single() and 1)
            or (round((each.high - each.low) / each.step) + 1 if each.step else math.inf)
            for each in self.distributions.values()
        )


def _distribution(name: str, given: Any) -> Any:
    distributions = imported_optuna().distributions
    wrong = f"search.{name}={given}: "
    if isinstance(given, list):
        kind = distributions.CategoricalDistribution
        arguments = {"choices": [json.dumps(choice) for choice in given]}
    elif isinstance(given, Mapping) and {"low", "high"} <= given.keys() <= _KEYS:
        numbers = [given[key] for key in given if key != "log"]
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            raise InputError(f"{wrong}give finite numbers")
        is_whole = all(isinstance(each, int) for each in numbers)
        kind = distributions.IntDistribution if is_whole else distributions.FloatDistribution
        arguments = dict(given)
    else:
        raise InputError(f"{wrong}give a list of values, or low and high, perhaps log or step")
    try:
        with warnings.catch_warnings():  # that `high` is no whole number of steps away
            warnings.simplefilter("ignore")
            return kind(**arguments)
    except ValueError as error:
        raise InputError(f"{wrong}{error}") from None


def _value(distribution: Any, drawn: Any) -> Any:
    if _choices(distribution):
        return json.loads(drawn)
    if isinstance(drawn, int):
        return drawn
    return min(max(float(f"{drawn:.{DIGITS}g}"), distribution.low), distribution.high)


def _choices(distribution: Any) -> tuple[str, ...]:
    return getattr(distribution, "choices", ())


def imported_optuna() -> Any:
    """The package, told to be quiet; InputError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise InputError(
            'search: optuna is not installed; `pip install "ddpm_kedro[optuna]"` brings it'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
