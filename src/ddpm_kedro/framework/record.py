"""The record beside outputs that says what made them: `<node>.made.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ddpm_kedro.datasets.place import Place
from ddpm_kedro.framework.making import Making

VERSION = 1
SUFFIX = ".made.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """What made the outputs of a unit, and what they were then."""

    nodes: list[str]
    seconds: float
    making: Making
    outputs: dict[str, dict[str, str]]
    """By dataset the `path`, relative to the record's folder, and the `sha256`."""
    made_at: str = field(default_factory=_now)
    """UTC, ISO 8601."""

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
            record = cls(nodes, found["seconds"], making, outputs, found["made_at"])
            return record if record.since else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, place: Place) -> None:
        """Write it whole, with what a person may want to know of the surroundings besides; none of
        that makes outputs stale. OSError where the folder is not writable."""
        surroundings = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "torch": importlib.metadata.version("torch"),
        }
        said: dict[str, Any] = {"version": VERSION, **asdict(self), "made_with": surroundings}
        said |= said.pop("making")
        place.write(json.dumps(said, indent=1, ensure_ascii=False).encode() + b"\n")

    @property
    def since(self) -> str:
        """When the outputs were made, in local time, as `26 Nov 02:10`; of earlier years `2025`
        stands in place of the time."""
        made = datetime.fromisoformat(self.made_at).astimezone()
        is_recent = made.year == datetime.now().year
        return f"{made.day} {made:%b %H:%M}" if is_recent else f"{made.day} {made:%b %Y}"
