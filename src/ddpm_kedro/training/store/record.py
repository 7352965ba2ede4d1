"""What a training says about itself, in one small JSON file in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm_kedro.files import atomic_write

FILE_NAME = "training.json"


@dataclass(frozen=True)
class TrainingRecord:
    """The parameters of a training, when it was last used, and how far its model got.

    Attributes:
        shaping: the parameters under the fingerprint.
        recorded: what else was in force at the last opening (device, precision, versions ...).
        last_used_at: seconds since 1970, at the last opening.
        budget_images: the highest budget it was opened with.
        model_images_seen: training images that the finished model has seen; None before that.
        model_sha256: the checksum of that model's file.
        asked_images: the budget of the last opening; None before it was noted.
        settled_images: images up to which a higher one than that comes to the same state.
    """

    shaping: dict[str, Any]
    recorded: dict[str, Any]
    last_used_at: float
    budget_images: int
    model_images_seen: int | None = None
    model_sha256: str | None = None
    asked_images: int | None = None
    settled_images: int | None = None

    @classmethod
    def read(cls, folder: Path) -> TrainingRecord:
        """The record of the training in `folder`.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it is not one of ours.
        """
        path = folder / FILE_NAME
        try:
            return cls(**json.loads(path.read_bytes()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error})") from None

    def write(self, folder: Path) -> None:
        """Replace the record in `folder`, in one rename."""
        with atomic_write(folder / FILE_NAME, "w") as file:
            json.dump(asdict(self), file, indent=1)

    def leads_from(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether this budget would have come to that checkpoint too.

        Args:
            checkpoint: its facts: ``images_seen``, and ``budget_images`` and ``settled_images``
                in force when it was saved; those of before they were noted fit every budget.
        """
        made_for = checkpoint.get("budget_images")
        if made_for is None or self.asked_images in (None, made_for):
            return True
        parting = checkpoint["settled_images"]
        if self.settled_images < self.asked_images:  # the own rate begins to fall there
            parting = min(parting, self.settled_images)
        return checkpoint["images_seen"] <= parting
