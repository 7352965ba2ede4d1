"""The store of all trainings: finds or makes the folder of the training that a run asks for."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import clear_leftovers, remove
from ddpm_kedro.locks import FileLock
from ddpm_kedro.plain import canonical
from ddpm_kedro.training.store.fingerprint import FINGERPRINT_DIGITS, differences, fingerprint
from ddpm_kedro.training.store.record import TrainingRecord
from ddpm_kedro.training.store.training_folder import TrainingFolder

LOGGER = logging.getLogger(__name__)

_FOLDER_NAME = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")
_SHOWN_DIFFERENCES = 8


class CheckpointStore:
    """All trainings under one folder, each in a folder named by the fingerprint of its parameters.

    One run holds a store at a time. No training is ever removed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(
        self,
        shaping: Mapping[str, Any],
        recorded: Mapping[str, Any],
        budget_images: int,
        *,
        settled_images: int | None = None,
        restart: bool = False,
        keep_checkpoints: int = 3,
        keep_trainings: int | None = None,
    ) -> TrainingFolder:
        """Take the store's lock and find or make the folder of the training with these parameters.

        One line is logged (and kept as `summary`): the training is *new*, *resumes* at a step,
        *goes on* from a finished model to a higher budget, or is *done*. A new one says what
        differs from the earlier one that is nearest, an old one what changed of `recorded`.

        `shaping` is every parameter that changes what is learned, its fingerprint the identity;
        `recorded` what else is in force: device, precision, versions, code, paths. After
        `budget_images` were seen the training is done; a higher budget will go on from
        `settled_images`, None: from the whole. With `restart` it starts over; the earlier folder is
        kept as `<fingerprint>.replaced` until the new training is finished. `keep_checkpoints` as
        in `TrainingFolder.save`; `keep_trainings` is the number of trainings, those used last,
        whose checkpoints stay once finished.

        InputError where another run holds the store, or it cannot be written, or a lower budget
        cannot go on from where an unfinished training stands.
        """
        for name, kept in (("trainings", keep_trainings), ("checkpoints", keep_checkpoints)):
            if kept is not None and kept < 1:
                raise InputError(f"keep_{name}={kept}: keep at least 1")
        path = self.path / fingerprint(shaping)
        record = TrainingRecord(
            canonical(shaping),
            canonical(recorded),
            last_used_at=time.time(),
            budget_images=budget_images,
            asked_images=budget_images,
            settled_images=budget_images if settled_images is None else settled_images,
        )
        with contextlib.ExitStack() as undo:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = undo.enter_context(FileLock(self.path / "lock"))
                folder = TrainingFolder(path, keep_checkpoints=keep_checkpoints, lock=lock)
                self._open(folder, record, restart)
                if keep_trainings is not None:
                    self._prune(path, keep_trainings)
            except OSError as error:
                raise InputError(
                    f"{error.filename or self.path}: checkpoints cannot be kept here "
                    f"({error.strerror or error}); choose a data_root that can be written"
                ) from error
            undo.pop_all()
        return folder

    def _open(self, folder: TrainingFolder, record: TrainingRecord, restart: bool) -> None:
        clear_leftovers(self.path)
        restarted = restart and folder.path.exists()
        if restarted:
            if folder.replaced_path.exists():
                remove(folder.replaced_path)
            os.rename(folder.path, folder.replaced_path)
        folder.make_ready()
        before = None if restarted else _earlier(folder.path)
        if before is not None:  # what it had reached still stands
            record = replace(
                record,
                budget_images=max(record.budget_images, before.budget_images),
                model_images_seen=before.model_images_seen,
                model_sha256=before.model_sha256,
                shown_sha256=before.shown_sha256,
            )
        folder.status, line = self._judge(folder, before, record)
        if folder.status == "new":
            record = replace(record, model_images_seen=None, model_sha256=None)
        changed = differences(before.recorded, record.recorded) if before else []
        if changed:
            line += f"; changed since: {_listed(changed)}"
        if restarted:
            kept = folder.replaced_path.name
            line += f"; started over, the earlier one is kept as {kept} until it finishes"
        folder.summary = f"training {folder.fingerprint} {line}"
        record.write(folder.path)
        LOGGER.info("%s", folder.summary)

    def _judge(
        self, folder: TrainingFolder, before: TrainingRecord | None, record: TrainingRecord
    ) -> tuple[str, str]:
        """The status of the training and the words that say so."""
        budget_images = record.asked_images
        budget_before = before.budget_images if before else budget_images
        model_images = record.model_images_seen or 0
        if model_images >= budget_images and folder.has_model(record):
            is_lower = budget_images < budget_before
            lower = f", more than the budget of {budget_images:,}" if is_lower else ""
            return "done", f"is already done: {model_images:,} images seen{lower}"
        checkpoint = folder.newest(record)
        if checkpoint is None and before and budget_images < budget_before:
            _refuse_if_past(folder, before, budget_images)
        folder.resume_from(checkpoint)
        if checkpoint is None:
            against = (
                f"no checkpoint is left of the {model_images:,} images before "
                "(training.keep_trainings), so it starts afresh"
                if model_images
                else self._against_nearest(folder.path, record)
            )
            return "new", f"is new: 0 of {budget_images:,} images{against and '; '}{against}"
        goes_on = record.model_images_seen is not None and budget_images > budget_before
        status, seen = "goes on" if goes_on else "resumes", checkpoint.images_seen
        line = f"{status} at step {checkpoint.step}, {seen:,} of {budget_images:,} images"
        if seen >= budget_images:
            line += ": the budget is reached, only the model is left to write"
        elif goes_on:
            line += f": a higher budget than the {budget_before:,} before"
            if seen == before.settled_images < model_images:
                line += ", whose rate began to fall there"
        return status, line

    def _against_nearest(self, path: Path, record: TrainingRecord) -> str:
        """What differs from the other training with the fewest differences, the last used."""
        others = [
            (differences(earlier.shaping, record.shaping), other.name)
            for other, earlier in self._others(path)
        ]
        if not others:
            return ""
        lines, name = min(others, key=lambda found: len(found[0]))
        said = f"against {name}, the nearest earlier one: {_listed(lines)}"
        if len(lines) == 1 and lines[0].startswith("lr_schedule.budget_images: "):
            said += (
                "; this lr_schedule gives another budget other rates from the start, under "
                "lr_schedule=wsd or constant a higher one goes on"
            )
        return said

    def _prune(self, opened: Path, keep_trainings: int) -> None:
        """Remove the checkpoints of finished trainings but the ones used last, `opened` first."""
        pruned = []
        for path, record in self._others(opened)[keep_trainings - 1 :]:
            folder = TrainingFolder(path)
            is_finished = (record.model_images_seen or 0) >= record.budget_images
            if is_finished and folder.has_model(record) and folder.drop_checkpoints():
                pruned.append(path.name)
        if pruned:
            kept = f"training.keep_trainings={keep_trainings}; models, logs and previews stay"
            LOGGER.info("checkpoints removed of %s: %s", _listed(pruned), kept)

    def _others(self, opened: Path) -> list[tuple[Path, TrainingRecord]]:
        """The other trainings, the last used first; anything else here is not ours to touch."""
        found = [
            (path, record)
            for path in sorted(self.path.iterdir())
            if _FOLDER_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            if path != opened and (record := _earlier(path)) is not None
        ]
        return sorted(found, key=lambda pair: -pair[1].last_used_at)


def _earlier(path: Path) -> TrainingRecord | None:
    try:
        return TrainingRecord.read(path)
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError):
            LOGGER.warning("%s", error)
        return None


def _refuse_if_past(folder: TrainingFolder, before: TrainingRecord, budget_images: int) -> None:
    """A checkpoint of the higher budget must not be thrown away for a mistyped lower one."""
    if (checkpoint := folder.newest(before)) is not None:
        raise InputError(
            f"training.budget_kimg: training {folder.fingerprint} stands at "
            f"{checkpoint.images_seen:,} images, past where the rate of a budget of "
            f"{budget_images:,} begins to fall; give {before.budget_images / 1000:g} or more to go "
            "on, or training.restart=true to start over"
        )


def _listed(lines: list[str]) -> str:
    shown = ", ".join(lines[:_SHOWN_DIFFERENCES])
    more = len(lines) - _SHOWN_DIFFERENCES
    return f"{shown} and {more} more" if more > 0 else shown
