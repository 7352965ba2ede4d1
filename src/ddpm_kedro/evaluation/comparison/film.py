"""What runs drew from one noise while they trained, as an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm_kedro.evaluation.chart import short_number
from ddpm_kedro.evaluation.comparison.runs import Run
from ddpm_kedro.images.grid import LARGEST_SCALE, make_grid
from ddpm_kedro.images.rows import spread

MOST_FRAMES = 16
MOST_RUNS = 4
_TIMES = {"duration": 700, "loop": 0}  # milliseconds a frame, for ever
_WIDTH, _LINE, _GAP = 1100, 22, 12
_INK, _PAPER = "#e6eaf0", "#12161c"


def film(runs: Sequence[Run]) -> bytes:
    """An animated WebP, lossless: the grids of samples of the first `MOST_RUNS` runs beside one
    another, each the newest at as many training images seen. Where no run has any it is one
    picture of the first samples, or of nothing."""
    shown = [run for run in runs if run.previews][:MOST_RUNS]
    moments = sorted({seen for run in shown for seen in run.previews})
    frames = [
        _frame(f"after {short_number(seen)} images", [grid_at(run, seen) for run in shown], shown)
        for seen in spread(np.array(moments, dtype=np.int64), MOST_FRAMES).tolist()
    ]
    if not frames:
        shown = [run for run in runs if run.samples is not None and len(run.samples)][:MOST_RUNS]
        grids = [make_grid(run.samples).convert("RGB") for run in shown]
        frames = [_frame("after training", grids, shown)]
    height = max(frame.height for frame in frames)
    first, *others = [frame.crop((0, 0, _WIDTH, height)) for frame in frames]
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, lossless=True, **_TIMES)
    return buffer.getvalue()


def grid_at(run: Run, seen: int) -> Image.Image:
    """The newest grid drawn before so many training images were seen, or the first; its pixels as
    small as the model's."""
    past = [number for number in run.previews if number <= seen]
    with Image.open(run.previews[max(past) if past else min(run.previews)]) as file:
        grid = file.convert("RGB")
    for scale in range(LARGEST_SCALE, 1, -1):
        small = grid.resize((grid.width // scale, grid.height // scale), Image.Resampling.NEAREST)
        if small.resize(grid.size, Image.Resampling.NEAREST).tobytes() == grid.tobytes():
            return small
    return grid


def _frame(title: str, grids: Sequence[Image.Image], runs: Sequence[Run]) -> Image.Image:
    width = _WIDTH // max(len(grids), 1) - _GAP
    sized = [_fitted(grid, width) for grid in grids]
    height = max((grid.height for grid in sized), default=0)
    frame = Image.new("RGB", (_WIDTH, height + 2 * _LINE + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(15)
    draw.text((_GAP // 2, 2), title, _INK, font)
    for index, (grid, run) in enumerate(zip(sized, runs, strict=True)):
        left = _GAP // 2 + index * (width + _GAP)
        draw.text((left, _LINE), run.name[: width // 8], _INK, font)
        frame.paste(grid, (left, 2 * _LINE))
    return frame


def _fitted(grid: Image.Image, width: int) -> Image.Image:
    """Enlarged by whole pixels, or made smaller, to fit into `width`."""
    if grid.width > width:
        return grid.resize((width, max(1, grid.height * width // grid.width)))
    scale = width // grid.width
    return grid.resize((grid.width * scale, grid.height * scale), Image.Resampling.NEAREST)
