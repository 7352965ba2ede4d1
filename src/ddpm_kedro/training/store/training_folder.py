"""The folder of one training: its checkpoints, its log, its previews and its final model."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import fsync_folder, sha256_of
from ddpm_kedro.training.store.checkpoint_file import (
    Checkpoint,
    DamagedCheckpoint,
    check_tensors,
    checkpoint_name,
    parse_name,
    read_checkpoint,
    read_facts,
    write_checkpoint,
)
from ddpm_kedro.training.store.removal import clear_leftovers, name_aside, remove_folder
from ddpm_kedro.training.store.snapshot import Snapshot
from ddpm_kedro.training.store.store_lock import StoreLock
from ddpm_kedro.training.store.training_state import TrainingState

logger = logging.getLogger(__name__)


class TrainingFolder:
    """Where one training keeps all it writes: ``<store>/<fingerprint>/``.

    ``CheckpointStore.open`` makes one and holds the store's lock in it; leaving it as a context
    manager waits for the last checkpoint and gives the lock back. :meth:`attach` makes one without
    the lock, for a worker process.

    Attributes:
        path: the folder.
        fingerprint: its name, which stands for the parameters that shape the training.
        status: ``"new"``, ``"resumes"``, ``"goes on"`` (finished before, now with a higher budget),
            ``"done"``, or ``"attached"``.
        summary: the one line that was logged when it was opened.
        log_path: the training log, JSON lines.
        previews_path: folder of the previews ``preview_<images seen>.png``.
        model_path: the final model.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_checkpoints: int = 3,
        status: str = "attached",
        summary: str = "",
        lock: StoreLock | None = None,
    ) -> None:
        if keep_checkpoints < 1:
            raise InputError(f"keep_checkpoints={keep_checkpoints}: keep at least 1")
        self.path = path
        self.fingerprint = path.name
        self.keep_checkpoints = keep_checkpoints
        self.status = status
        self.summary = summary
        self.log_path = path / "training_log.jsonl"
        self.previews_path = path / "previews"
        self.model_path = path / "model.safetensors"
        self.checkpoints_path = path / "checkpoints"
        self._lock = lock
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._is_clean = False
        self._opened_at: Checkpoint | None = None

    @classmethod
    def attach(cls, path: str | os.PathLike[str], keep_checkpoints: int = 3) -> TrainingFolder:
        """The training in ``path`` without its store's lock, for a worker process.

        The parent process opened the store, holds the lock and outlives the workers. At most one
        worker (rank 0) saves; reading is free to all.

        Raises:
            InputError: there is no training in ``path``.
        """
        path = Path(path)
        if not TrainingState.path_in(path).is_file():
            raise InputError(f"{path}: no training here; open it through its CheckpointStore first")
        return cls(path, keep_checkpoints=keep_checkpoints)

    @property
    def is_done(self) -> bool:
        """The budget was reached before and the final model lies whole at ``model_path``."""
        return self.status == "done"

    # Writing ------------------------------------------------------------------------------------

    def save(
        self,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        *,
        step: int,
        images_seen: int,
    ) -> None:
        """Take a snapshot and write it in the background; at most one save is under way.

        On return the tensors may change. The checkpoint appears under its name in one rename when
        all its bytes are on the disk; then the last ``keep_checkpoints`` and the newest
        that a higher budget can go on from stay, and others go, also any of a later step (those
        were damaged or of another budget, or training would have resumed there). An earlier save
        is waited for.

        Args:
            tensors: everything stateful, by name; any device, any layout.
            facts: everything else that resuming needs, JSON-serialisable.
            step: optimizer steps taken.
            images_seen: training images seen, over all workers.

        Raises:
            InputError: this or the earlier checkpoint cannot be written (disk full, not writable);
                those already there are unharmed.
            TypeError: a value cannot be saved.
        """
        self.wait()
        self._opened_at = None
        check_tensors(tensors)
        state = self._state()
        body = {
            "fingerprint": self.fingerprint,
            "step": int(step),
            "images_seen": int(images_seen),
            "budget_images": state.asked_images,
            "settled_images": state.settled_images,
            "facts": json.loads(json.dumps(dict(facts))),  # a copy, refused here if impossible
            "parameters": {"shaping": state.shaping, "recorded": state.recorded},
        }
        snapshot = Snapshot(tensors)
        self._writer = threading.Thread(
            target=self._write, args=(snapshot, body), name=f"checkpoint at step {step}"
        )
        self._writer.start()

    def wait(self) -> None:
        """Return when no checkpoint is being written.

        Raises:
            InputError: the checkpoint could not be written; the message says which, where and why,
                and what the newest whole one is.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def finished(self, images_seen: int) -> None:
        """Note that training ended at ``images_seen`` and that ``model_path`` is its model.

        A later ``CheckpointStore.open`` with a budget of at most that many images finds it done.

        Raises:
            InputError: the last checkpoint or the note could not be written.
            FileNotFoundError: there is no model at ``model_path``.
        """
        self.wait()
        checksum = sha256_of(self.model_path)
        try:
            TrainingState.read(self.path).with_model(int(images_seen), checksum).write(self.path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: the end of training cannot be noted ({error})"
            ) from error
        replaced = self.path.with_name(self.path.name + ".replaced")
        if replaced.exists():
            remove_folder(replaced)

    def _write(self, snapshot: Snapshot, body: dict[str, Any]) -> None:
        try:
            self._clean()
            self.checkpoints_path.mkdir(exist_ok=True)
            aside = name_aside(self.checkpoints_path)
            aside.mkdir()
            try:
                write_checkpoint(aside, snapshot.ready(), body)
                written = self._free_path(body["step"])
                os.rename(aside, written)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            fsync_folder(self.checkpoints_path)
        except OSError as error:
            newest = next(iter(self._paths()), None)
            kept = f"the newest one there is {newest.name}" if newest else "there is no earlier one"
            self._failure = InputError(
                f"the checkpoint at step {body['step']} could not be written to "
                f"{self.checkpoints_path}: {error.strerror or error}; {kept}"
            )
        except BaseException as error:
            self._failure = error
        else:
            try:
                self._prune(written)
            except OSError as error:  # the new checkpoint is safe, an old one takes room
                logger.warning("%s: an old checkpoint could not be removed (%s)", self.path, error)

    def _free_path(self, step: int) -> Path:
        attempt = 0
        while os.path.lexists(path := self.checkpoints_path / checkpoint_name(step, attempt)):
            attempt += 1
        return path

    def _prune(self, written: Path) -> None:
        """Keep ``written``, the newest before it and the newest settled; see :meth:`save`."""
        step, attempt = parse_name(written.name) or (0, 0)
        earlier, superseded = [], []
        for path in self._paths():
            number = parse_name(path.name) or (0, 0)
            if number[0] < step:
                earlier.append(path)
            elif number != (step, attempt):
                superseded.append(path)
        settled = next(filter(self._is_settled, [written, *earlier]), None)
        for path in [*superseded, *earlier[self.keep_checkpoints - 1 :]]:
            if path != settled:
                remove_folder(path)

    def _is_settled(self, path: Path) -> bool:
        """A higher budget would have come to the checkpoint in ``path`` too."""
        with contextlib.suppress(DamagedCheckpoint):
            facts = read_facts(path, self.fingerprint)
            return facts["images_seen"] <= (facts.get("settled_images") or 0)
        return False

    def _clean(self) -> None:
        """Remove what a killed writer left; only one process writes here, so none is at work."""
        if not self._is_clean and self.checkpoints_path.is_dir():
            clear_leftovers(self.checkpoints_path)
        self._is_clean = True

    # Reading ------------------------------------------------------------------------------------

    def latest(self, state: TrainingState | None = None) -> Checkpoint | None:
        """The newest whole checkpoint that leads to the budget, or None.

        Each damaged one is named in a warning.

        Args:
            state: says the budget; None reads it from the folder.

        Raises:
            InputError: the folder's state is gone or damaged.
        """
        if self._opened_at is not None:  # verified when the store was opened, a moment ago
            checkpoint, self._opened_at = self._opened_at, None
            return checkpoint
        for path in self._strangers():
            logger.warning("%s: skipped, not a checkpoint of this program", path)
        return self._first_whole(state or self._state())

    def hold(self, checkpoint: Checkpoint | None) -> None:
        """Have the next :meth:`latest` return ``checkpoint``, which was just read, unread again."""
        self._opened_at = checkpoint

    def _state(self) -> TrainingState:
        try:
            return TrainingState.read(self.path)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: the training folder was changed ({error})") from None

    def _first_whole(self, state: TrainingState) -> Checkpoint | None:
        for path in self._paths():
            try:
                if state.leads_from(read_facts(path, self.fingerprint)):
                    return read_checkpoint(path, self.fingerprint)
            except DamagedCheckpoint as damage:
                logger.warning("%s: checkpoint skipped, %s", path, damage)
        return None

    def _paths(self) -> list[Path]:
        """Everything named as a checkpoint, newest first."""
        named = [(parse_name(path.name), path) for path in self._entries()]
        return [path for number, path in sorted((n, p) for n, p in named if n)[::-1]]

    def _strangers(self) -> Iterator[Path]:
        for path in self._entries():
            if parse_name(path.name) is None and not path.name.startswith("."):
                yield path

    def _entries(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(self.checkpoints_path.iterdir())
        return []

    @property
    def has_checkpoints(self) -> bool:
        """There is something named as one, whole or not."""
        return bool(self._paths())

    def drop_checkpoints(self) -> None:
        """Remove all checkpoints."""
        for path in self._paths():
            remove_folder(path)

    def cut_back_previews(self, images_seen: int) -> None:
        """Remove previews of later than ``images_seen``, as the log is cut back: of another way."""
        for path in self.previews_path.glob("preview_*.png"):
            number = path.stem.removeprefix("preview_")
            if number.isdecimal() and int(number) > images_seen:
                path.unlink()

    # Closing ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for the last checkpoint, then give the store's lock back."""
        try:
            self.wait()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (InputError, OSError) as failure:
            if error is None:
                raise
            if failure is not error:
                logger.error("%s", failure)
