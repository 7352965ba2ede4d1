"""Pictures of what the model draws while it learns, from its averaged and its raw weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.files import atomic_write
from ddpm_kedro.images.grid import PADDING_VALUE, make_grid
from ddpm_kedro.training.step.state import LearningState


def preview_path(folder: Path, images_seen: int) -> Path:
    """The name of the preview after ``images_seen`` images; names sort by it."""
    return folder / f"preview_{images_seen:012d}.png"


def write_preview(
    path: Path,
    state: LearningState,
    precision: Precision,
    on_step: Callable[[float], object] | None = None,
) -> None:
    """Draw samples into one PNG: of the averaged weights at the left, of the raw at the right.

    The same noise each time (seed 0), so that pictures compare. Nothing of the training changes:
    samplers draw from streams without state, and averages only lend their values.

    Args:
        path: a picture already there is replaced.
        state: its ``settings`` say how many images and which sampler.
        precision: the network's.
        on_step: called with a number of images after each step of the sampler.
    """
    with state.averaged():
        averaged = _draw(state, precision, on_step)
    pictures = [make_grid(averaged), make_grid(_draw(state, precision, on_step))]
    gap = max(8, pictures[0].width // 32)
    width = sum(picture.width for picture in pictures) + gap
    sheet = Image.new(pictures[0].mode, (width, pictures[0].height), _grey(pictures[0].mode))
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (pictures[0].width + gap, 0))
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


def _draw(
    state: LearningState, precision: Precision, on_step: Callable[[float], object] | None
) -> np.ndarray:
    return state.model.sample(
        state.settings.num_previews, seed=0, precision=precision.name, progress=on_step or False
    )


def _grey(mode: str) -> int | tuple[int, ...]:
    return PADDING_VALUE if mode == "L" else (PADDING_VALUE,) * len(mode)
