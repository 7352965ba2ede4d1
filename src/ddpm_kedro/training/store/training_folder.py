"""The folder of one training: its checkpoints, its log, its previews and its final model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_kedro.content import content_hash
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import clear_leftovers, remove, sha256_of
from ddpm_kedro.locks import FileLock
from ddpm_kedro.training.store.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    Snapshot,
    checkpoint_name,
    read_checkpoint,
    read_facts,
    step_in,
    write_checkpoint,
)
from ddpm_kedro.training.store.record import TrainingRecord

LOGGER = logging.getLogger(__name__)


class TrainingFolder:
    """Where one training keeps all it writes: `<store>/<fingerprint>/`.

    `CheckpointStore.open` makes one and holds the store's lock in it; leaving it as a context
    manager waits for the last checkpoint and gives the lock back. A worker process makes one
    without the lock: its parent holds it and outlives the workers, of which at most one saves.

    `status` is `"new"`, `"resumes"`, `"goes on"` (finished before, now with a higher budget)
    or `"done"`; `"attached"` without the lock. `summary` is what was logged on opening.
    """

    def __init__(
        self, path: Path, *, keep_checkpoints: int = 3, lock: FileLock | None = None
    ) -> None:
        self.path, self.fingerprint = path, path.name
        self.keep_checkpoints = keep_checkpoints
        self.status = "attached"
        self.summary = ""
        self.log_path = path / "training_log.jsonl"
        self.previews_path = path / "previews"  # preview_<images seen>.png
        self.model_path = path / "model.safetensors"
        self.checkpoints_path = path / "checkpoints"
        self._lock = lock
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._latest: Checkpoint | None = None  # verified, and nothing was saved since

    @property
    def is_done(self) -> bool:
        """The budget was reached before and the final model lies whole at `model_path`."""
        return self.status == "done"

    def record(self) -> TrainingRecord:
        """What the training says about itself; refused with an InputError if gone or damaged."""
        try:
            return TrainingRecord.read(self.path)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: the training folder was changed ({error})") from None

    def has_model(self, record: TrainingRecord) -> bool:
        """The file at `model_path` is, byte for byte, the finished model of `record`."""
        with contextlib.suppress(OSError):
            return sha256_of(self.model_path) == record.model_sha256
        return False

    def has_shown(self, record: TrainingRecord) -> bool:
        """The log and the previews are, byte for byte, those of the end of `record`."""
        with contextlib.suppress(OSError):
            return record.shown_sha256 in (None, self._shown_hash())
        return False

    def _shown_hash(self) -> str:
        paths = (self.log_path, self.previews_path)
        hashes = [content_hash(path) if path.exists() else "" for path in paths]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def finished(self, images_seen: int) -> None:
        """Note that training ended at `images_seen` with the model that lies at `model_path`: it
        is done for budgets up to there. An InputError says that this could not be written."""
        self.wait()
        hashes = {"model_sha256": sha256_of(self.model_path), "shown_sha256": self._shown_hash()}
        try:
            record = TrainingRecord.read(self.path)
            replace(record, model_images_seen=images_seen, **hashes).write(self.path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: the end of training cannot be noted ({error})"
            ) from error
        if self.replaced_path.exists():
            remove(self.replaced_path)

    @property
    def replaced_path(self) -> Path:
        """Where an earlier training with this fingerprint waits until this one is finished."""
        return self.path.with_name(self.path.name + ".replaced")

    def latest(self) -> Checkpoint | None:
        """As `newest` for the record on disk; read once, then remembered until a save."""
        if self._latest is None:
            self._latest = self.newest(self.record())
        return self._latest

    def newest(self, record: TrainingRecord) -> Checkpoint | None:
        """The newest whole checkpoint that leads to the budget of `record`, or None; a warning
        names each damaged one, and what is no checkpoint."""
        for path in self._entries():
            if step_in(path.name) is None and not path.name.startswith("."):
                LOGGER.warning("%s: skipped, not a checkpoint of this program", path)
        for path in self._checkpoints():
            try:
                if record.leads_from(read_facts(path, self.fingerprint)):
                    return read_checkpoint(path, self.fingerprint)
            except DamagedCheckpoint as damage:
                LOGGER.warning("%s: checkpoint skipped, %s", path, damage)
        return None

    def save(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], step: int, images_seen: int
    ) -> None:
        """Take a snapshot and write it in the background; an earlier save is waited for.

        On return the tensors (any device, any layout) may change; `facts` are JSON-serialisable.
        When the checkpoint is whole on the disk the last `keep_checkpoints` and the newest that a
        higher budget can go on from stay, and others go, also any of a later step (those were
        damaged or of another budget, or training would have resumed there). InputError where the
        earlier one could not be written, TypeError where a value cannot be saved.
        """
        self.wait()
        self._latest = None
        record = self.record()
        body = {
            "fingerprint": self.fingerprint,
            "step": step,
            "images_seen": images_seen,
            "budget_images": record.asked_images,
            "settled_images": record.settled_images,
            "facts": json.loads(json.dumps(dict(facts))),  # a copy, refused here if impossible
            "parameters": {"shaping": record.shaping, "recorded": record.recorded},
        }
        self._writing = self._writer.submit(self._write, Snapshot(tensors), body)

    def wait(self) -> None:
        """Return when no checkpoint is being written; an InputError says that it could not be
        written, those already there are unharmed."""
        if self._writing is not None:
            wait([self._writing])
            written, self._writing = self._writing, None
            written.result()

    def drop_checkpoints(self) -> bool:
        """Remove all checkpoints; whether there were any."""
        dropped = self._checkpoints()
        for path in dropped:
            remove(path)
        return bool(dropped)

    def _write(self, snapshot: Snapshot, body: dict[str, Any]) -> None:
        written = self.checkpoints_path / checkpoint_name(body["step"])
        try:
            write_checkpoint(written, snapshot.ready(), body)
        except OSError as error:
            newest = next(iter(self._checkpoints()), None)
            kept = f"the newest one there is {newest.name}" if newest else "there is no earlier one"
            raise InputError(
                f"the checkpoint at step {body['step']} could not be written to "
                f"{self.checkpoints_path}: {error.strerror or error}; {kept}"
            ) from error
        try:
            self._prune(written, body["step"])
        except OSError as error:  # the new checkpoint is safe, an old one takes room
            LOGGER.warning("%s: an old checkpoint could not be removed (%s)", self.path, error)

    def _prune(self, written: Path, step: int) -> None:
        """Keep `written`, the newest before it and the newest settled; see `save`."""
        paths = self._checkpoints()
        upto = [written, *(path for path in paths if (step_in(path.name) or 0) < step)]
        settled = next(filter(self._is_settled, upto), None)
        for path in paths:
            if path not in (*upto[: self.keep_checkpoints], settled):
                remove(path)

    def _is_settled(self, path: Path) -> bool:
        """A higher budget would have come to the checkpoint in `path` too."""
        with contextlib.suppress(DamagedCheckpoint):
            facts = read_facts(path, self.fingerprint)
            return facts["images_seen"] <= (facts.get("settled_images") or 0)
        return False

    def _checkpoints(self) -> list[Path]:
        """Everything named as a checkpoint, newest first."""
        numbered = ((step_in(path.name), path) for path in self._entries())
        named = [(step, path) for step, path in numbered if step is not None]
        return [path for _, path in sorted(named, reverse=True)]

    def _entries(self) -> list[Path]:
        return sorted(self.checkpoints_path.iterdir()) if self.checkpoints_path.is_dir() else []

    def make_ready(self) -> None:
        """Make the folder where it is missing; remove what a killed run left."""
        self.previews_path.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.checkpoints_path):
            clear_leftovers(path)

    def resume_from(self, checkpoint: Checkpoint | None) -> None:
        """Have `checkpoint` for the latest; remove what was drawn after it, on another way."""
        self._latest = checkpoint
        images_seen = checkpoint.images_seen if checkpoint else 0
        for path in self.previews_path.glob("preview_*.png"):
            number = path.stem.removeprefix("preview_")
            if number.isdecimal() and int(number) > images_seen:
                path.unlink()

    def close(self) -> None:
        """Wait for the last checkpoint, then give the store's lock back."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except InputError as failure:
            if error is None:
                raise
            LOGGER.error("%s", failure)
