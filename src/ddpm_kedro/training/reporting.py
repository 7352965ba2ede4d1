"""What a training says while it runs: records, previews, how long it takes, the progress bar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.files import atomic_write
from ddpm_kedro.images.grid import PADDING_VALUE, make_grid
from ddpm_kedro.progress import Progress, duration
from ddpm_kedro.training.estimates import PREVIEW, QUICK_SCORE, Forecast, describe_cost
from ddpm_kedro.training.quick_score import BestWeights
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.team import Team

LOGGER = logging.getLogger(__name__)

MOST_OF_SCORES = 0.03  # of the time that they may take without a word


class Report:
    """The records, pictures and lines of a training; in a team, of the lead of each machine: other
    processes only count their time here."""

    def __init__(
        self,
        state: LearningState,
        precision: Precision,
        folder: TrainingFolder,
        tracker: Tracker,
        team: Team,
        forecast: Forecast,
        num_train_images: int,
    ) -> None:
        self._state, self._precision, self._team = state, precision, team
        self._folder, self._tracker, self._num_train_images = folder, tracker, num_train_images
        self._forecast, self.pace = forecast, forecast.pace
        self._news: dict[str, float] = {}
        self._said_dear = False

    @contextmanager
    def opened(self, rows: int, placement: str) -> Iterator[None]:
        """Inside, the log is open and progress is shown. First it is said what training costs with
        `rows` images at a time, and where; its images lie in `placement`."""
        state, team = self._state, self._team
        if team.is_lead:
            cost = describe_cost(state, rows, self._precision)
            LOGGER.info("model: %s", cost)
            workers = f"{team.world_size} workers, " if team.world_size > 1 else ""
            device = f"{workers}{state.device}"
            precision = f"{self._precision.name} ({self._precision.reason})"
            LOGGER.info("device: %s, precision %s, images %s", device, precision, placement)
            self._tracker.note("model", cost)
            self._tracker.open(self._folder.log_path, after_step=state.step)
        self._progress = Progress(
            state.settings.budget_images,
            "images",
            "training",
            initial=state.images_seen,
            seconds_left=self._forecast.seconds_left,
            most_lines=8,
            silent=not team.is_lead,
        )
        try:
            yield
        finally:
            self._progress.close()
            if team.is_lead:
                self._tracker.close()

    def count_step(self) -> None:
        """Note that a step is taken; after the first ones say how long all will take."""
        if self.pace.count_step():
            line, seconds = self._forecast.describe()
            self._progress.say(line, predicted=seconds)

    def show(self) -> None:
        """Bring the progress bar to where training stands."""
        self._progress.update(self._state.settings.batch_size, **self._news)
        self._news = {}

    def tick(self, *_: object) -> None:
        """Let the bar look at the clock during a pause."""
        self._progress.update(0)

    def record(
        self, lr: float | Tensor, held_out_loss: float | None, quick_score: float | None
    ) -> None:
        """Log the mean loss since it was cleared, the `lr` of the last step and what is known."""
        state, counters = self._state, self._state.counters
        count = int(counters["loss_count"])
        record: dict[str, Any] = {
            "step": state.step,
            "images_seen": state.images_seen,
            "epoch": state.images_seen / self._num_train_images,
            "loss": float(counters["loss_sum"]) / count if count else float("nan"),
            "lr": float(lr),
            "grad_norm": float(counters["grad_norm"]),
            "skipped_updates": int(counters["skipped"]),
            "images_per_second": self.pace.lap(),
            "elapsed_seconds": self.pace.elapsed_seconds,
        }
        if held_out_loss is not None:
            record["held_out_loss"] = held_out_loss
        self._news = {"loss": record["loss"]}
        if quick_score is not None:
            record["quick_score"] = self._news["quick_score"] = quick_score
        self._tracker.record(record)

    def preview(self) -> None:
        """Draw a picture of samples and tell the tracker."""
        state = self._state
        path = preview_path(self._folder.previews_path, state.images_seen)
        with self.pausing_for(PREVIEW):
            write_preview(path, state, self._precision, self.tick)
        self._tracker.preview(path, {"step": state.step, "images_seen": state.images_seen})

    def last_preview(self) -> None:
        """Draw the last state where the time was up, or where only the model was left to write."""
        state, settings = self._state, self._state.settings
        if state.step < settings.num_steps:
            self._progress.say(
                f"time is up after {duration(self.pace.session_seconds)} at "
                f"{state.images_seen:,} of {settings.budget_images:,} images"
            )
        if not preview_path(self._folder.previews_path, state.images_seen).exists():
            self.preview()

    def say_what_it_took(self) -> None:
        """The counterpart of what was foretold."""
        whole, drawing = self.pace.session_seconds, self.pace.spent.get(PREVIEW, 0.0)
        said = f"training took {duration(whole)}, of which previews {duration(drawing)}"
        if scoring := self.pace.spent.get(QUICK_SCORE):
            said += f", quick scores {duration(scoring)}"
        self._progress.say(said, took={"training": whole, "previews": drawing})

    def say_which_is_best(self, last: float, best: BestWeights) -> None:
        """Whether `sampling.weights: best` is something else than the last state."""
        said = f"quick score {last:.4g} at the end is the best"
        if best.beats(last):
            said = (
                f"quick score {last:.4g} at the end, {best.score:.4g} at {best.images_seen:,} "
                "images: sampling.weights=best draws from there"
            )
        self._progress.say(said)

    def say_if_scores_are_dear(self) -> None:
        """Once, where they take more than their share of the time: how often would be right."""
        share, kimg = self._forecast.share_of_scores(MOST_OF_SCORES)
        if share > MOST_OF_SCORES and not self._said_dear:
            self._said_dear = True
            self._progress.say(
                f"quick scores take {share:.0%} of the time; evaluation.every_kimg={kimg:g} would "
                f"keep them at {MOST_OF_SCORES:.0%}"
            )

    @contextmanager
    def pausing_for(self, activity: str) -> Iterator[None]:
        """Inside, time does not count as training, and `activity` is shown."""
        with self._progress.doing(activity), self.pace.paused(activity):
            yield


def preview_path(folder: Path, images_seen: int) -> Path:
    """The name of the preview after `images_seen` images; names sort by it."""
    return folder / f"preview_{images_seen:012d}.png"


def write_preview(
    path: Path,
    state: LearningState,
    precision: Precision,
    on_step: Callable[[float], object] | None = None,
) -> None:
    """Draw samples into one PNG: of the averaged weights at the left, of the raw at the right.

    The same noise each time (seed 0), so that pictures compare. Nothing of the training changes:
    samplers draw from streams without state, and averages only lend their values. `on_step` is
    called with a number of images after each step of the sampler.
    """
    # No more at once than a step of a training that was short of memory has
    at_once = state.settings.micro_batch_size
    options = dict(seed=0, batch_size=at_once, precision=precision.name, progress=on_step or False)
    draw = partial(state.model.sample, state.settings.num_previews, **options)
    with state.averaged():
        left = make_grid(draw())
    right = make_grid(draw())
    gap = max(8, left.width // 32)
    grey = (PADDING_VALUE,) * len(left.mode)
    sheet = Image.new(left.mode, (left.width + gap + right.width, left.height), grey)
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + gap, 0))
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")
