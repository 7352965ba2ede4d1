"""The training log, and whoever else wants to hear what training says."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.plain import plain

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Somebody who listens: a hook attaches one for W&B."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the log: ``step``, ``images_seen``, ``loss``, ``lr`` ..."""

    def preview(self, path: Path, record: Mapping[str, Any]) -> None:
        """A picture of samples was written to ``path``."""

    def note(self, key: str, value: Any) -> None:
        """A fact of the whole training, such as its fingerprint."""


class Tracker:
    """Writes every record to the log, one JSON line each, and hands it to the attached sinks.

    The log is the truth: a record is with the operating system before :meth:`record` returns (it
    survives a killed process) and on the disk after :meth:`sync` (it survives a power cut). A sink
    that raises is named in one warning and not called again; training goes on. May be called from
    several threads.
    """

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._lock = threading.RLock()
        self._handle: int | None = None
        self._log_path: Path | None = None

    def attach(self, sink: Sink) -> None:
        """Give ``sink`` everything that is said from now on."""
        with self._lock:
            self._sinks.append(sink)

    def detach(self, sink: Sink) -> None:
        """Give ``sink`` nothing more; one that is not attached is no error."""
        with self._lock:
            self._sinks = [other for other in self._sinks if other is not sink]

    def open(self, log_path: str | os.PathLike[str], after_step: int) -> None:
        """Cut the log at ``log_path`` back to its records of ``step <= after_step``; append there.

        The shorter log replaces the longer one in one rename. Lines that a killed run or a full
        disk left torn are dropped.

        Args:
            log_path: JSON lines; made when missing.
            after_step: the step of the checkpoint that training resumes from; 0 for a new one.

        Raises:
            InputError: the log cannot be written.
        """
        self.close()
        path = Path(log_path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_back(path, after_step)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise InputError(
                f"{path}: the training log cannot be written ({error.strerror})"
            ) from None
        with self._lock:
            self._handle, self._log_path = handle, path

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record to the log and hand it to the sinks.

        Args:
            record: ``step`` and whatever was measured; numbers may be NumPy's or 0-dim tensors. A
                number that is not finite is written as null, since JSON has none.

        Raises:
            InputError: the disk is full; no part of the record stays in the log.
            RuntimeError: no log is open.
        """
        record = plain(record)
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        with self._lock:
            self._append(line)
            self._tell("record", record)

    def preview(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        """Tell the sinks that a picture of samples was written to ``path``."""
        with self._lock:
            self._tell("preview", Path(path), plain(record))

    def note(self, key: str, value: Any) -> None:
        """Tell the sinks a fact of the whole training."""
        with self._lock:
            self._tell("note", key, value)

    def sync(self) -> None:
        """Bring the log onto the disk: call it before the checkpoint that vouches for it.

        Raises:
            InputError: the disk failed.
        """
        with self._lock:
            if self._handle is not None:
                try:
                    os.fsync(self._handle)
                except OSError as error:
                    raise self._failure(error) from None

    def close(self) -> None:
        """Bring the log onto the disk and close it; the sinks stay attached."""
        with self._lock:
            if self._handle is not None:
                try:
                    self.sync()
                finally:
                    os.close(self._handle)
                    self._handle = None

    def _append(self, line: bytes) -> None:
        if self._handle is None:
            raise RuntimeError("Tracker.record before Tracker.open")
        length = os.fstat(self._handle).st_size
        try:
            rest = line
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            os.ftruncate(self._handle, length)
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> InputError:
        return InputError(
            f"{self._log_path}: the training log cannot be written ({error.strerror})"
        )

    def _tell(self, method: str, *arguments: Any) -> None:
        for sink in list(self._sinks):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                self.detach(sink)
                logger.warning(
                    "%s failed and hears no more of this training: %s: %s",
                    type(sink).__name__, type(error).__name__, error,
                )  # fmt: skip


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a training log; torn lines are left out, with a warning that counts them.

    Args:
        path: a log that a :class:`Tracker` wrote, also while it writes.

    Raises:
        OSError: there is none.
    """
    lines = Path(path).read_bytes().splitlines(keepends=True)
    records = [record for line in lines if (record := _parsed(line)) is not None]
    if len(records) < len(lines):
        torn = len(lines) - len(records)
        logger.warning("%s: %d of %d lines are torn and left out", path, torn, len(lines))
    return records


def _cut_back(path: Path, after_step: int) -> None:
    if not path.exists():
        return
    dropped = 0
    with open(path, "rb") as log:
        for line in log:
            dropped += not _is_kept(line, after_step)
        if not dropped:
            return
        log.seek(0)
        with atomic_write(path) as shorter:
            shorter.writelines(line for line in log if _is_kept(line, after_step))
    logger.info("%s: cut back to step %d, %d lines dropped", path, after_step, dropped)


def _is_kept(line: bytes, after_step: int) -> bool:
    record = _parsed(line)
    return record is not None and record["step"] <= after_step


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a whole line (one with its end), or None for a torn one."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if is_record else None
