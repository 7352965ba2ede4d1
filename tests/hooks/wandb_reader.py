"""Read back what an offline W&B run wrote: LevelDB's log format around protobuf records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FILE_HEADER_BYTES = 7
_BLOCK_BYTES = 32 * 1024
_CHUNK_HEADER_BYTES = 7  # checksum (4), length (2), kind (1)
_FULL, _LAST = 1, 4


@dataclass
class OfflineRun:
    """What one ``run-*.wandb`` file says, the last word of each key winning."""

    folder: Path
    run_id: str = ""
    group: str = ""
    project: str = ""
    host: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    kinds: list[str] = field(default_factory=list)
    raw: bytes = b""

    def artifact_file(self, artifact_type: str, name: str) -> Path:
        """Where the bytes of one file of an artifact wait for their upload."""
        for record in self.artifacts.values():
            if record.type == artifact_type:
                for entry in record.manifest.contents:
                    if entry.path == name:
                        return Path(entry.local_path)
        raise KeyError(f"{artifact_type}/{name}")

    def parameters_artifact(self) -> Any:
        """The resolved parameters that were logged as YAML."""
        return yaml.safe_load(self.artifact_file("parameters", "parameters.yml").read_text())

    def images(self, key: str) -> list[Path]:
        """The picture files that were logged under ``key``, oldest first."""
        rows = [row[key] for row in self.history if key in row]
        return [self.folder / "files" / row["path"] for row in rows]


def offline_runs(folder: Path) -> list[OfflineRun]:
    """All runs under ``folder``, oldest first."""
    paths = sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return [read_run(path) for path in paths]


def read_run(path: Path) -> OfflineRun:
    """Parse one ``run-*.wandb`` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun(path.parent, raw=path.read_bytes())
    for payload in _payloads(run.raw):
        record = Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        run.kinds.append(kind)
        if kind == "run":
            run.run_id, run.group = record.run.run_id, record.run.run_group
            run.project, run.tags = record.run.project, list(record.run.tags)
            run.host = record.run.host
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run.metrics[name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts[record.artifact.name] = record.artifact
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *sections, last = item.nested_key or [item.key]
        place = target
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = json.loads(item.value_json)


def _payloads(data: bytes) -> Iterator[bytes]:
    position, parts = _FILE_HEADER_BYTES, []
    while position + _CHUNK_HEADER_BYTES <= len(data):
        left_in_block = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left_in_block < _CHUNK_HEADER_BYTES:
            position += left_in_block
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        position += _CHUNK_HEADER_BYTES
        parts.append(data[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
