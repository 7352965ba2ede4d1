"""The store of all trainings: finds or makes the folder of the training that a run asks for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.store.checkpoint_file import Checkpoint
from ddpm_kedro.training.store.fingerprint import FINGERPRINT_DIGITS, differences, fingerprint
from ddpm_kedro.training.store.removal import clear_leftovers, remove_folder
from ddpm_kedro.training.store.store_lock import StoreLock
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.store.training_state import TrainingState

__all__ = ["Checkpoint", "CheckpointStore", "TrainingFolder"]

logger = logging.getLogger(__name__)

_FOLDER_NAME = re.compile(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}")
_SHOWN_DIFFERENCES = 8


class CheckpointStore:
    """All trainings under one folder, each in a folder named by the fingerprint of its parameters.

    One run holds a store at a time. No training is ever removed.

    Args:
        path: the store's folder; it is made when a training is opened.
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

        One line is logged (and kept as ``summary``): the training is *new*, *resumes* at a step,
        *goes on* from a finished model to a higher budget, or is *done*. A new one says what
        differs from the earlier one that is nearest, an old one what changed of ``recorded``.

        Args:
            shaping: every parameter that changes what is learned; its fingerprint is the identity.
            recorded: what else is in force: device, precision, versions, code, paths.
            budget_images: training images to see in all. Fewer than were seen before is no error:
                the training is done.
            restart: start over; the earlier folder is kept as ``<fingerprint>.replaced`` until the
                new training is finished.
            keep_checkpoints: see :meth:`TrainingFolder.save`.
            settled_images: images up to which a higher budget comes to the same state, from where
                it will go on; None: the whole budget.
            keep_trainings: the trainings used last whose checkpoints stay; of older ones that are
                finished they are removed, of unfinished ones never; None: all stay.

        Raises:
            InputError: another run holds the store, or it cannot be written; or a lower budget
                cannot go on from where an unfinished training stands.
        """
        if keep_trainings is not None and keep_trainings < 1:
            raise InputError(f"keep_trainings={keep_trainings}: keep at least 1")
        name = fingerprint(shaping)
        settled_images = budget_images if settled_images is None else settled_images
        state = TrainingState.create(shaping, recorded, budget_images, settled_images)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = StoreLock(self.path / "lock")
        except OSError as error:
            raise InputError(
                f"{self.path}: checkpoints cannot be kept here ({error.strerror}); "
                "choose a data_root that can be written"
            ) from None
        try:
            folder = self._open(name, state, budget_images, restart, keep_checkpoints, lock)
            if keep_trainings is not None:
                self._prune(folder.path, keep_trainings)
            return folder
        except OSError as error:
            lock.release()
            raise InputError(
                f"{error.filename or self.path}: the training cannot be kept here "
                f"({error.strerror or error})"
            ) from error
        except BaseException:
            lock.release()
            raise

    def _open(
        self,
        name: str,
        state: TrainingState,
        budget_images: int,
        restart: bool,
        keep_checkpoints: int,
        lock: StoreLock,
    ) -> TrainingFolder:
        path = self.path / name
        clear_leftovers(self.path)
        restarted = restart and path.exists()
        if restarted:
            _set_aside(path)
        folder = TrainingFolder(path, keep_checkpoints=keep_checkpoints, lock=lock)
        path.mkdir(exist_ok=True)
        folder.previews_path.mkdir(exist_ok=True)
        if folder.checkpoints_path.is_dir():
            clear_leftovers(folder.checkpoints_path)
        before = None if restarted else self._earlier(path)
        if before is not None:
            state = state.following(before)
        folder.status, line = self._judge(folder, before, state, budget_images)
        if folder.status == "new":
            state = state.without_model()
        if restarted:
            line += f"; started over, the earlier one is kept as {name}.replaced until it finishes"
        folder.summary = f"training {name} {line}"
        state.write(path)
        logger.info("%s", folder.summary)
        return folder

    def _judge(
        self,
        folder: TrainingFolder,
        before: TrainingState | None,
        state: TrainingState,
        budget_images: int,
    ) -> tuple[str, str]:
        """The status of the training and the words that say so."""
        changed = differences(before.recorded, state.recorded) if before else []
        notice = f"; changed since: {_listed(changed)}" if changed else ""
        budget_before = before.budget_images if before else budget_images
        model_images = state.model_images_seen or 0
        if model_images >= budget_images and state.has_whole_model(folder.model_path):
            lower = f", more than the budget of {budget_images:,}"
            said = lower if budget_images < budget_before else ""
            return "done", f"is already done: {model_images:,} images seen{said}{notice}"
        checkpoint = folder.latest(state)
        if checkpoint is None and before is not None and budget_images < budget_before:
            _refuse_if_past(folder, before, budget_images)
        folder.hold(checkpoint)
        folder.cut_back_previews(checkpoint.images_seen if checkpoint else 0)
        if checkpoint is None:
            nearest = self._nearest(folder.path, state)
            against = ""
            if nearest is not None:
                other, lines = nearest
                against = f"; against {other}, the nearest earlier one: {_listed(lines)}"
                if len(lines) == 1 and lines[0].startswith("lr_schedule.budget_images: "):
                    against += (
                        "; this lr_schedule gives another budget other rates from the start, under "
                        "lr_schedule=wsd or constant a higher one goes on"
                    )
            if model_images:
                against = (
                    f"; no checkpoint is left of the {model_images:,} images before "
                    "(training.keep_trainings), so it starts afresh"
                )
            return "new", f"is new: 0 of {budget_images:,} images{against}{notice}"
        goes_on = state.model_images_seen is not None and budget_images > budget_before
        status = "goes on" if goes_on else "resumes"
        place = f"at step {checkpoint.step}, {checkpoint.images_seen:,} of {budget_images:,} images"
        if checkpoint.images_seen >= budget_images:
            place += ": the budget is reached, only the model is left to write"
        elif goes_on:
            place += f": a higher budget than the {budget_before:,} before"
            if checkpoint.images_seen < model_images:
                place += ", whose rate began to fall there"
        return status, f"{status} {place}{notice}"

    def _nearest(self, path: Path, state: TrainingState) -> tuple[str, list[str]] | None:
        """The other training with the fewest differences in ``shaping``, the last used of them."""
        others = []
        for other in self._folders():
            earlier = self._earlier(other) if other != path else None
            if earlier is not None:
                lines = differences(earlier.shaping, state.shaping)
                others.append((len(lines), -earlier.last_used_at, other.name, lines))
        if not others:
            return None
        _, _, name, lines = min(others)
        return name, lines

    def _prune(self, opened: Path, keep_trainings: int) -> None:
        """Remove the checkpoints of finished trainings but the ones used last, ``opened`` first."""
        used = []
        for path in self._folders():
            state = self._earlier(path) if path != opened else None
            if state is not None:
                used.append((state.last_used_at, path.name, state))
        pruned = []
        for _, name, state in sorted(used, reverse=True)[keep_trainings - 1 :]:
            folder = TrainingFolder(self.path / name)
            is_finished = (state.model_images_seen or 0) >= state.budget_images
            if is_finished and folder.has_checkpoints and state.has_whole_model(folder.model_path):
                folder.drop_checkpoints()
                pruned.append(name)
        if pruned:
            logger.info(
                "checkpoints removed of %s: training.keep_trainings=%d; models, logs and previews "
                "stay", _listed(pruned), keep_trainings,
            )  # fmt: skip

    def _folders(self) -> list[Path]:
        """The folders of trainings; anything else in the store is not ours to touch."""
        named = (path for path in self.path.iterdir() if _FOLDER_NAME.fullmatch(path.name))
        return [path for path in named if path.is_dir() and not path.is_symlink()]

    def _earlier(self, path: Path) -> TrainingState | None:
        try:
            return TrainingState.read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s", error)
            return None


def _refuse_if_past(folder: TrainingFolder, before: TrainingState, budget_images: int) -> None:
    """A checkpoint of the higher budget must not be thrown away for a mistyped lower one."""
    checkpoint = folder.latest(before)
    if checkpoint is not None:
        raise InputError(
            f"training.budget_kimg: training {folder.fingerprint} stands at "
            f"{checkpoint.images_seen:,} images, past where the rate of a budget of "
            f"{budget_images:,} begins to fall; give {before.budget_images / 1000:g} or more to go "
            "on, or training.restart=true to start over"
        )


def _replaced_path(path: Path) -> Path:
    return path.with_name(path.name + ".replaced")


def _set_aside(path: Path) -> None:
    replaced = _replaced_path(path)
    if replaced.exists():
        remove_folder(replaced)
    os.rename(path, replaced)


def _listed(lines: list[str]) -> str:
    shown = ", ".join(lines[:_SHOWN_DIFFERENCES])
    more = len(lines) - _SHOWN_DIFFERENCES
    return f"{shown} and {more} more" if more > 0 else shown
