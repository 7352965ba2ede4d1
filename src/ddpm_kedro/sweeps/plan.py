"""The trials of a sweep: composed and checked, all of them, before the first one starts."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.composition import leaves, overlay
from ddpm_kedro.framework.config_loader import project_loader
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.plain import canonical_json
from ddpm_kedro.sweeps.settings import SweepSettings
from ddpm_kedro.sweeps.trial import Trial

_SHARED = {"prepared_root", "raw_root"}
_ROOTS = {*_SHARED, "data_root"}
_LONGEST_NAME = 80


class Plan:
    """Makes a sweep's trials out of what differs between them.

    `project` is the project's folder, `folder` where the trials' folders are made (None: below
    `<data_root>/sweeps`, by the name), `typed` what `--params` said, nested, which lies over the
    sweep's own `params`. InputError where the parameters that all trials share are wrong.
    """

    def __init__(
        self,
        name: str,
        settings: SweepSettings,
        project: Path,
        *,
        typed: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self.settings, self.project = name, settings, project
        self.env = settings.env or os.environ.get("KEDRO_ENV") or None
        self.params = overlay(nested(settings.params), typed or {}, [])
        with self.naming():
            composed = project_loader(project, self.env, self.params)["parameters"]
        self._shared = {key: str(project / composed[key]) for key in _SHARED}
        if settings.halving is not None:  # the first rung must not meet models of whole budgets
            name = f"{name}-from-{settings.halving:g}-kimg"
        self.folder = project / (folder or Path(composed["data_root"]) / "sweeps" / name)

    @cached_property
    def varied(self) -> list[dict[str, Any]]:
        """What differs in each trial, by dotted keys, in the file's order: InputError where there
        is nothing to try."""
        over = self.settings.over
        if empty := next((key for key, values in over.items() if not values), None):
            raise InputError(f"sweep {self.name}: over.{empty}: no values; give at least one")
        if not over and not self.settings.trials:
            raise InputError(
                f"sweep {self.name}: nothing to try; give over (a grid, as `--over "
                "optimizer=adam,sgd`) or trials (a list)"
            )
        listed = [dict(leaves(nested(each))) for each in self.settings.trials] or [{}]
        grid = itertools.product(*over.values())
        points = [dict(zip(over, values, strict=True)) for values in grid]
        return [{**each, **point} for each in listed for point in points]

    def trials(self) -> list[Trial]:
        """All of the sweep's trials, checked; InputError names the first that is wrong, or two that
        come to the same."""
        keys = {key for each in self.varied for key in each}
        trials = [self.trial(each, keys) for each in self.varied]
        for first, second in itertools.combinations(trials, 2):
            if first.sameness == second.sameness or first.name == second.name:
                raise InputError(
                    f"sweep {self.name}: {first.name} and {second.name} come to the same "
                    "parameters; leave one out"
                )
        return trials

    def trial(self, varied: Mapping[str, Any], keys: Iterable[str] | None = None) -> Trial:
        """The checked trial with these values, by dotted keys, of which others of the sweep vary
        `keys` too. InputError, which names the trial, where a value or choice is refused."""
        name = name_of(varied, keys or varied)
        with self.naming(name):
            values, folder = nested(varied), self.folder / name
            given, own = dict(leaves(self.params)).keys(), dict(leaves(values)).keys()
            if root := _ROOTS & own:
                raise InputError(f"{min(root)}: is the sweep's to choose, it cannot be varied")
            if clash := given & own:
                raise InputError(f"{min(clash)}: is given for all trials (params) and varied too")
            roots = {**self._shared, "data_root": str(folder)}
            params = overlay(overlay(self.params, values, []), roots, [])
            composed = project_loader(self.project, self.env, params)["parameters"]
            parameters = Parameters.from_tree(composed)
            # Not at the top: torch is for trees that are right
            from ddpm_kedro.option_check import check_options, check_samplers

            check_samplers(parameters, *check_options(parameters))
        return Trial(name, folder, self.env, params, dict(varied), parameters)

    @contextlib.contextmanager
    def naming(self, trial: str | None = None) -> Iterator[None]:
        """Inside, a mistake says of which sweep, and trial, it is."""
        try:
            yield
        except InputError as error:
            where = f", trial {trial}" if trial else ""
            raise InputError(f"sweep {self.name}{where}: {error}") from error


def nested(values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`, at any depth."""
    tree: dict[str, Any] = {}
    for key, value in dict(values).items():
        value = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            value = {part: value}
        tree = overlay(tree, value, [])
    return tree


def name_of(varied: Mapping[str, Any], keys: Iterable[str]) -> str:
    """A trial's name, which is its folder's: what differs, by the last words of the dotted keys
    that tell them from the other `keys`; with a hash where it is long or had to be changed."""
    words = [f"{_short(key, set(keys))}={said(value)}" for key, value in varied.items()]
    whole = ",".join(words) or "unchanged"
    name = re.sub(r"[^\w.,=+-]+", "-", whole, flags=re.ASCII)
    if name == whole and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(canonical_json(varied).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}-{digest}"


def _short(key: str, keys: set[str]) -> str:
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = "." + ".".join(parts[-count:])
        if sum(f".{other}".endswith(end) for other in keys) == 1:
            return end[1:]
    return key


def said(value: Any) -> str:
    """A value of YAML in a few characters."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
