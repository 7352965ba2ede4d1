"""The records beside a run's outputs, `<node>.made.json`: what made each of them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ddpm_kedro.content import content_hash

PATTERN = "*/*.made.json"  # below a `data_root`


class Records:
    """Those of the run in the folder `path`, a `data_root`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> list[dict[str, Any]]:
        """All that are whole, in the order in which their outputs were made; none in an old run."""
        found = []
        for path in self.path.glob(PATTERN):
            with contextlib.suppress(OSError, ValueError, TypeError):
                record = {**json.loads(path.read_bytes()), "folder": path.parent}
                if {"nodes", "made_at", "seconds", "parameters", "code", "outputs"} <= set(record):
                    found.append(record)
        return sorted(found, key=lambda record: record["made_at"])

    def current(self) -> list[dict[str, Any]]:
        """Those whose outputs are on the disk as they were made."""
        return [record for record in self.read() if all(map(_stands, _outputs(record)))]


def _outputs(record: dict[str, Any]) -> list[tuple[Path, str]]:
    outputs = record["outputs"].values()
    return [(record["folder"] / output["path"], output["sha256"]) for output in outputs]


def _stands(output: tuple[Path, str]) -> bool:
    with contextlib.suppress(OSError):
        return content_hash(output[0]) == output[1]
    return False
