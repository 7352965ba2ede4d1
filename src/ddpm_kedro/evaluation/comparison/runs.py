"""The runs to compare: found by what was typed, and read from their folders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.cards import JUDGE_AGAIN, has_training_log, hash_of_json
from ddpm_kedro.evaluation.records import PATTERN, Records

SHOWN_SAMPLES = 16
SECTIONS = ("preparation", "training", "sampling", "evaluation")
METRICS = "08_reporting/metrics.json"
_DIAGNOSTICS = "08_reporting/diagnostics.json"
_LOG = "08_reporting/training_log.jsonl"
_LOG_CARD = "08_reporting/training_card.json"
_PREVIEWS = "08_reporting/sample_previews"
_SAMPLES = "07_model_output/samples.npy"
_SAMPLES_CARD = "07_model_output/samples_card.json"


@dataclass(frozen=True)
class Run:
    """What is shown of one run."""

    name: str
    metrics: Mapping[str, Any]
    model: Mapping[str, Any]
    """The model's spec, empty where nothing tells it."""
    drawn: Mapping[str, Any]
    """The card of the samples that were judged."""
    stamp: Mapping[str, Any]
    """By what its scores were made; they compare where its `stamp` is equal, None in old runs."""
    parameters: Mapping[str, Any] | None
    """Sections of parameters, of the records of what made it; None where it has no such records."""
    log: Sequence[Mapping[str, Any]]
    """Records of the training of the model that was judged."""
    previews: Mapping[int, Path]
    """Grids of samples from one noise, by training images seen, ascending."""
    samples: np.ndarray | None
    """The first `SHOWN_SAMPLES` of those that were judged, uint8 (N, C, H, W)."""

    @classmethod
    def read(cls, name: str, folder: Path) -> Run:
        """The run in `folder`, a `data_root`; InputError where it has no metrics, a file is torn,
        or metrics and diagnostics are of different evaluations."""
        files_of(folder)
        metrics, found = _json(folder / METRICS), _json(folder / _DIAGNOSTICS)
        evaluated = found.get("evaluated", {})
        if evaluated and evaluated.get("metrics") != hash_of_json(metrics):
            raise InputError(
                f"{folder}: metrics and diagnostics are not of one evaluation: {JUDGE_AGAIN}"
            )
        drawn = evaluated.get("samples", {})
        has_log = False
        with contextlib.suppress(InputError):  # of another model: the judged one has no log here
            has_log = has_training_log(_json(folder / _LOG_CARD) or None, drawn.get("model"))
        is_judged = bool(drawn) and _json(folder / _SAMPLES_CARD) == drawn
        return cls(
            name,
            metrics,
            found.get("model", {}),
            drawn,
            {"stamp": metrics.get("stamp"), **evaluated.get("stamp", {})},
            _recorded(folder),
            _log(folder / _LOG) if has_log else [],
            _previews(folder / _PREVIEWS) if has_log else {},
            _first_samples(folder / _SAMPLES) if is_judged else None,
        )


def find_runs(named: Iterable[str], sweeps: Path) -> dict[str, Path]:
    """The folders of runs by name. Each of `named` is a folder, called by its last part, or a trial
    of one of the `sweeps` (`trial`, `sweep/trial`), or either under another name, `NAME=folder`.

    InputError for none, no such folder or trial, one of no single sweep, or two of one name.
    """
    runs: dict[str, Path] = {}
    for text in named:
        name, place, found = "", text, _folders(text, sweeps)
        if not found:  # only now, since names of trials have equals signs too
            name, _, place = text.partition("=")
            found = _folders(place, sweeps)
        if not found:
            raise InputError(f"{text}: no such folder, and no trial of that name in {sweeps}")
        if len(found) > 1 and found[0] != Path(place):
            which = ", ".join(str(trial.relative_to(sweeps)) for trial in found)
            raise InputError(f"{place}: a trial of several sweeps; choose one of {which}")
        name = name or found[0].resolve().name
        if name in runs:
            raise InputError(
                f"two runs are called {name}: give one another name, as in other={found[0]}"
            )
        runs[name] = found[0]
    if not runs:
        raise InputError("no runs to compare: `kedro compare RUN...`, or compare.runs in YAML")
    return runs


def _folders(place: str, sweeps: Path) -> list[Path]:
    parents = (Path(), sweeps, *(sorted(sweeps.iterdir()) if sweeps.is_dir() else ()))
    return [parent / place for parent in parents if place and (parent / place).is_dir()]


def files_of(folder: Path) -> list[Path]:
    """The files that a comparison reads of a run; InputError where it was not evaluated."""
    if not (folder / METRICS).is_file():
        raise InputError(f"{folder} is no finished run: there is no {METRICS} in it")
    fixed = (METRICS, _DIAGNOSTICS, _LOG, _LOG_CARD, _SAMPLES, _SAMPLES_CARD)
    files = [path for name in fixed if (path := folder / name).is_file()]
    return [*files, *sorted(folder.glob(PATTERN)), *_previews(folder / _PREVIEWS).values()]


def _json(path: Path) -> dict[str, Any]:
    """The object in the file, an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not whole JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return found


def _recorded(folder: Path) -> dict[str, Any] | None:
    values = [item for record in Records(folder).read() for item in record["parameters"].items()]
    named = {name.removeprefix("params:"): value for name, value in values}
    sections = {name: named[name] for name in SECTIONS if name in named}
    return sections if "training" in sections else None


def _log(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a torn line
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and "images_seen" in record]


def _previews(folder: Path) -> dict[int, Path]:
    named = sorted(folder.glob("preview_*.png"))
    seen = {path: path.stem.removeprefix("preview_") for path in named}
    return {int(number): path for path, number in seen.items() if number.isdecimal()}


def _first_samples(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        samples = np.lib.format.open_memmap(path, mode="r")[:SHOWN_SAMPLES]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a whole array: {error}") from error
    return np.array(samples) if samples.ndim == 4 and samples.dtype == np.uint8 else None
