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
    """The parameters of a training, when it was last used, and how far its model got."""

    shaping: dict[str, Any]  # under the fingerprint
    recorded: dict[str, Any]  # what else was in force at the last opening
    last_used_at: float  # seconds since 1970
    budget_images: int  # the highest one it was opened with
    model_images_seen: int | None = None  # by the finished model
    model_sha256: str | None = None
    shown_sha256: str | None = None  # of log and previews then; None before it was noted
    asked_images: int | None = None  # the budget of the last opening; None before it was noted
    settled_images: int | None = None  # up to where a higher one than that comes to the same state

    @classmethod
    def read(cls, folder: Path) -> TrainingRecord:
        """The record in `folder`; an OSError if it cannot be read, a ValueError if damaged."""
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
        """Whether this budget would have come to the checkpoint with these facts too; those of
        before `budget_images` and `settled_images` were noted fit every budget."""
        made_for = checkpoint.get("budget_images")
        if made_for is None or self.asked_images in (None, made_for):
            return True
        parting = checkpoint["settled_images"]
        if self.settled_images < self.asked_images:  # the own rate begins to fall there
            parting = min(parting, self.settled_images)
        return checkpoint["images_seen"] <= parting
