"""What a training folder says about itself, in one small JSON file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddpm_kedro.files import atomic_write, sha256_of
from ddpm_kedro.plain import canonical


@dataclass(frozen=True)
class TrainingState:
    """The parameters of a training, when it was last used, and how far its model got.

    Attributes:
        shaping: the parameters under the fingerprint.
        recorded: what else was in force at the last opening (device, precision, versions ...).
        last_used_at: seconds since 1970, at the last opening.
        budget_images: the highest budget it was opened with.
        asked_images: the budget of the last opening; None before it was noted.
        settled_images: images up to which a higher one than that comes to the same state.
        model_images_seen: training images that the finished model has seen; None before that.
        model_sha256: the checksum of that model's file.
    """

    shaping: dict[str, Any]
    recorded: dict[str, Any]
    last_used_at: float
    budget_images: int
    model_images_seen: int | None = None
    model_sha256: str | None = None
    asked_images: int | None = None
    settled_images: int | None = None

    @staticmethod
    def path_in(folder: Path) -> Path:
        """Where the state of the training in ``folder`` lies."""
        return folder / "training.json"

    @classmethod
    def create(
        cls,
        shaping: Mapping[str, Any],
        recorded: Mapping[str, Any],
        budget_images: int,
        settled_images: int,
    ) -> TrainingState:
        """The state of a training that is opened now."""
        return cls(
            canonical(shaping),
            canonical(recorded),
            time.time(),
            budget_images,
            asked_images=budget_images,
            settled_images=settled_images,
        )

    @classmethod
    def read(cls, folder: Path) -> TrainingState:
        """The state of the training in ``folder``.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it is not one of ours.
        """
        try:
            state = cls(**json.loads(cls.path_in(folder).read_bytes()))
            is_ours = isinstance(state.shaping, dict) and isinstance(state.recorded, dict)
            numbers = state.last_used_at, state.budget_images
            if not is_ours or not all(isinstance(number, int | float) for number in numbers):
                raise ValueError("a field has the wrong type")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{cls.path_in(folder)}: damaged ({error})") from None
        return state

    def write(self, folder: Path) -> None:
        """Replace the state in ``folder``, in one rename."""
        with atomic_write(self.path_in(folder), "w") as file:
            json.dump(asdict(self), file, indent=1)

    def following(self, earlier: TrainingState) -> TrainingState:
        """The same training, opened again: what ``earlier`` had reached still stands."""
        return replace(
            self,
            budget_images=max(self.budget_images, earlier.budget_images),
            model_images_seen=earlier.model_images_seen,
            model_sha256=earlier.model_sha256,
        )

    def with_model(self, images_seen: int, sha256: str) -> TrainingState:
        """The same training with a finished model."""
        return replace(self, model_images_seen=images_seen, model_sha256=sha256)

    def without_model(self) -> TrainingState:
        """The same training before its model is finished."""
        return replace(self, model_images_seen=None, model_sha256=None)

    def leads_from(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether this budget would have come to that checkpoint too.

        Args:
            checkpoint: its facts: ``images_seen``, and ``budget_images`` and ``settled_images``
                in force when it was saved; those of before they were noted fit every budget.
        """
        made_for = checkpoint.get("budget_images")
        if made_for is None or made_for == self.asked_images:
            return True
        own = self.settled_images
        has_end = own is not None and self.asked_images is not None and own < self.asked_images
        parting = (
            min(checkpoint["settled_images"], own) if has_end else checkpoint["settled_images"]
        )
        return checkpoint["images_seen"] <= parting

    def has_whole_model(self, model_path: str | os.PathLike[str]) -> bool:
        """The file at ``model_path`` is, byte for byte, the finished model."""
        try:
            return self.model_sha256 is not None and sha256_of(model_path) == self.model_sha256
        except OSError:
            return False
