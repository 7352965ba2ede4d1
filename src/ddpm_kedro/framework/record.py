"""The record beside outputs that says what made them: `<node>.made.json`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ddpm_kedro.datasets.place import Place
from ddpm_kedro.framework.making import Making

VERSION = 1
_SUFFIX = ".made.json"


@dataclass(frozen=True)
class Record:
    """What made the outputs of a unit, and what they were then: `outputs` has for each dataset its
    `path`, relative to the record's folder where both are on one file system, and its `sha256`."""

    nodes: list[str]
    made_at: str
    """UTC, ISO 8601."""
    seconds: float
    making: Making
    outputs: dict[str, dict[str, str]]

    @classmethod
    def read(cls, place: Place, nodes: list[str]) -> Record | None:
        """The record of these nodes; None where there is none, or it is torn, of other nodes or in
        another version's form."""
        try:
            found = json.loads(place.read() or b"")
            if found["version"] != VERSION or found["nodes"] != nodes:
                return None
            making = Making(*(dict(found[key]) for key in ("inputs", "parameters", "code")))
            outputs = {name: dict(output) for name, output in found["outputs"].items()}
            datetime.fromisoformat(found["made_at"])
            return cls(nodes, found["made_at"], float(found["seconds"]), making, outputs)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @classmethod
    def of(cls, nodes: list[str], seconds: float, making: Making, outputs: Any) -> Record:
        """The record of what was made just now."""
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(nodes, made_at, round(seconds, 1), making, outputs)

    def write(self, place: Place) -> None:
        """Write it whole; OSError where the folder is not writable."""
        said = {
            "version": VERSION,
            "nodes": self.nodes,
            "made_at": self.made_at,
            "seconds": self.seconds,
            **asdict(self.making),
            "outputs": self.outputs,
            "made_with": _surroundings(),
        }
        text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False)
        place.write(text.encode() + b"\n")

    @property
    def since(self) -> str:
        """When it was made, in local time, as `26 Nov 02:10`, with the year of an earlier one."""
        made, now = (each.astimezone() for each in (datetime.fromisoformat(self.made_at), _now()))
        return f"{made.day} {made:%b %H:%M}" if made.year == now.year else f"{made.day} {made:%b %Y}"


def record_place(node: str, output: Place) -> Place:
    """Where the record of a unit lies that begins with `node` and whose first output is `output`."""
    return output.beside(f"{node}{_SUFFIX}")


def relative_path(output: Place, record: Place) -> str:
    """The path of an output as a record at `record` says it."""
    if output.files is None and record.files is None:
        return os.path.relpath(output.path, os.path.dirname(record.path))
    return output.path


def _now() -> datetime:
    return datetime.now(UTC)


def _surroundings() -> dict[str, str]:
    """With what it was made, for a person: none of it makes outputs stale."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": importlib.metadata.version("torch"),
    }
