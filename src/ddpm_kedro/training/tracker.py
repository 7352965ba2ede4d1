"""The training log, and whoever else wants to hear what training says."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.plain import plain

LOGGER = logging.getLogger(__name__)


class Sink(Protocol):
    """Somebody who listens: a hook attaches one for W&B."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the log: `step`, `images_seen`, `loss`, `lr` ..."""

    def preview(self, path: Path, record: Mapping[str, Any]) -> None:
        """A picture of samples was written to `path`."""

    def note(self, key: str, value: Any) -> None:
        """A fact of the whole training, such as its fingerprint."""


class Tracker:
    """Writes every record to the log, one JSON line each, and hands it to the attached sinks.

    The log is the truth: a record is with the operating system before `record` returns (it survives
    a killed process) and on the disk after `sync` (it survives a power cut). A sink that raises is
    named in one warning and not called again; training goes on. May be called from several threads.
    """

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._lock = threading.RLock()
        self._handle: int | None = None
        self._log_path = Path()

    def attach(self, sink: Sink) -> None:
        """Give `sink` everything that is said from now on."""
        with self._lock:
            self._sinks.append(sink)

    def detach(self, sink: Sink) -> None:
        """Give `sink` nothing more; one that is not attached is no error."""
        with self._lock:
            self._sinks = [other for other in self._sinks if other is not sink]

    def open(self, log_path: str | os.PathLike[str], after_step: int) -> None:
        """Cut the log at `log_path` back to its records of `step <= after_step`, the step of the
        checkpoint that training resumes from, and append there; torn lines go, a missing log is
        made. An InputError says that it cannot be written."""
        self.close()
        self._log_path = Path(log_path)
        with self._lock, self._writing():
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            _cut_back(self._log_path, after_step)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._handle = os.open(self._log_path, flags, 0o666)

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record to the log and hand it to the sinks: `step` and whatever was measured.

        Numbers may be NumPy's or 0-dim tensors; one that is not finite is written as null. An
        InputError says that the disk is full, and no part of the record stays in the log; a
        RuntimeError that no log is open.
        """
        record = plain(record)
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._handle is None:
                raise RuntimeError("Tracker.record before Tracker.open")
            length = os.fstat(self._handle).st_size
            with self._writing():
                try:
                    while line:
                        line = line[os.write(self._handle, line) :]
                except OSError:
                    os.ftruncate(self._handle, length)
                    raise
            self._tell("record", record)

    def preview(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        """Tell the sinks that a picture of samples was written to `path`."""
        with self._lock:
            self._tell("preview", Path(path), plain(record))

    def note(self, key: str, value: Any) -> None:
        """Tell the sinks a fact of the whole training."""
        with self._lock:
            self._tell("note", key, value)

    def sync(self) -> None:
        """Bring the log onto the disk, before the checkpoint that vouches for it; an InputError
        says that the disk failed."""
        with self._lock, self._writing():
            if self._handle is not None:
                os.fsync(self._handle)

    def close(self) -> None:
        """Bring the log onto the disk and close it; the sinks stay attached."""
        with self._lock:
            try:
                self.sync()
            finally:
                if self._handle is not None:
                    os.close(self._handle)
                self._handle = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._log_path}: the training log cannot be written ({error.strerror})"
            ) from None

    def _tell(self, method: str, *arguments: Any) -> None:
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                self.detach(sink)
                said = type(sink).__name__, type(error).__name__, error
                LOGGER.warning("%s failed and hears no more of this training: %s: %s", *said)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a log that a `Tracker` wrote, or still writes; torn lines are left out,
    with a warning that counts them. An OSError says that there is none."""
    lines = Path(path).read_bytes().splitlines(keepends=True)
    records = [record for line in lines if (record := _parsed(line)) is not None]
    if torn := len(lines) - len(records):
        LOGGER.warning("%s: %d of %d lines are torn and left out", path, torn, len(lines))
    return records


def _cut_back(path: Path, after_step: int) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (record := _parsed(line)) and record["step"] <= after_step]
    if dropped := len(lines) - len(kept):
        with atomic_write(path) as shorter:
            shorter.writelines(kept)
        LOGGER.info("%s: cut back to step %d, %d lines dropped", path, after_step, dropped)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a whole line (one with its end), or None for a torn one."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
