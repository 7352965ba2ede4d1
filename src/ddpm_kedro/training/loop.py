"""One process's training: the loop over steps, and what happens between them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ddpm_kedro.diffusion.model import Model, save_model
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.noise import Stream
from ddpm_kedro.diffusion.precision import choose_device, choose_precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.progress import Progress, duration
from ddpm_kedro.training.estimates import HELD_OUT, PREVIEW, Forecast, describe_cost
from ddpm_kedro.training.initial_weights import initial_weights
from ddpm_kedro.training.pace import Pace
from ddpm_kedro.training.previews import preview_path, write_preview
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.core_use import choose_core_use
from ddpm_kedro.training.step.data_feed import DataFeed, EpochOrder
from ddpm_kedro.training.step.generators import derived_seed, own_generators
from ddpm_kedro.training.step.held_out import HeldOutLoss, split_rows
from ddpm_kedro.training.step.memory import FittingStep
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.team import Agreement, Team, newest_of_all

logger = logging.getLogger(__name__)

OUT_OF_TIME = 1000  # a reason to stop that is no signal's number


@dataclass(frozen=True)
class Outcome:
    """How far a run of the loop came.

    Attributes:
        step: optimizer steps taken.
        images_seen: training images seen.
        signum: the signal that stopped it, 0 for the end of the budget or of the time allowed.
    """

    step: int
    images_seen: int
    signum: int = 0


class TrainingRun:
    """Everything one process needs to train, built and, if there is a checkpoint, restored.

    Args:
        images: to train on; the held-out ones are split off here.
        folder: for checkpoints, previews and the model; only the lead of the team writes there.
        tracker: gets the lead's records.
        settings: every choice.
        spec: of the model.
        team: this process's place in it.
    """

    def __init__(
        self,
        images: ImageSet,
        folder: TrainingFolder,
        tracker: Tracker,
        settings: TrainingSettings,
        spec: ModelSpec,
        team: Team,
    ) -> None:
        self.folder, self.tracker, self.settings, self.team = folder, tracker, settings, team
        self.device = device_of(settings, team)
        if self.device.type == "cuda":  # pragma: cuda only
            torch.cuda.set_device(self.device)  # streams and graphs are those of the current one
        self.precision = choose_precision(settings.precision, self.device)

        # State: new, or that of the newest whole checkpoint
        checkpoint = newest_of_all(folder.latest(), team)
        with own_generators(self.device):
            torch.manual_seed(derived_seed(settings.seed, Stream.WEIGHTS))
            model = Model(spec)
        if checkpoint is None and settings.init_from is not None:
            model.network.load_state_dict(initial_weights(model.network, settings))
        model.network.to(self.device).train()
        self.state = LearningState(model, settings)
        elapsed_seconds = 0.0
        if checkpoint is not None:
            self.state.restore(checkpoint)
            elapsed_seconds = checkpoint.facts["elapsed_seconds"]

        # Data: what is trained on, in which order, and what is held out
        rows, held_out_rows = split_rows(
            len(images), settings.held_out_fraction, settings.held_out_images
        )
        labels = images.labels if settings.conditional else None
        part = team.part_of(settings.batch_size)
        self.feed = DataFeed(
            images.images,
            labels,
            EpochOrder(rows, settings.seed),
            batch_size=settings.batch_size,
            part=part,
            device=self.device,
        )
        self.num_train_images = len(rows)
        share = part.stop - part.start
        rows_at_once = min(settings.micro_batch_size or share, share)
        self.held_out = None
        if len(held_out_rows):
            self.held_out = HeldOutLoss(
                images.images,
                labels,
                held_out_rows,
                timesteps=settings.timestep_sampling(),
                seed=settings.seed,
                batch_size=max(rows_at_once, 16),
            )
        facts = None if checkpoint is None else checkpoint.facts
        self.cores = choose_core_use(self.state, self.precision, team, facts)
        self.step = FittingStep(self.state, self.precision, team, self.cores.lanes)
        self.pace = Pace(self.device, settings.batch_size, elapsed_seconds)
        self.forecast = Forecast(self.state, self.pace, share, len(held_out_rows))
        self._settled_images = settings.settled_images
        self._saved_step: int | None = None

    def __call__(self, asked_to_stop: Callable[[], int]) -> Outcome:
        """Train until the budget or the time is used up, or somebody asks to stop.

        Args:
            asked_to_stop: the number of the signal that came, else 0; called at every step.

        Raises:
            InputError: too many updates in a row were skipped, or the disk failed.
        """
        state = self.state
        if self.team.is_lead:
            self._announce()
            self.tracker.open(self.folder.log_path, after_step=state.step)
        self.progress = Progress(
            self.settings.budget_images,
            "images",
            "training",
            initial=state.images_seen,
            seconds_left=self.forecast.seconds_left,
            most_lines=8,
            silent=not self.team.is_lead,
        )
        try:
            with (
                own_generators(self.device),
                self.precision.product_mode(),
                kept_heap(),
                self.cores.in_force(),
            ):
                reason = self._train(asked_to_stop)
                if reason in (0, OUT_OF_TIME) and self.team.is_lead:
                    self._write_model()
                    self._say_what_it_took()
        finally:
            self.progress.close()
            if self.team.is_lead:
                self.tracker.close()
        signum = 0 if reason == OUT_OF_TIME else reason
        return Outcome(state.step, state.images_seen, signum)

    def _train(self, asked_to_stop: Callable[[], int]) -> int:
        """The loop; returns why it ended: 0 at the end of the budget."""
        state, settings = self.state, self.settings
        agreement = Agreement(self.team)
        batches = self.feed.batches(state.step)
        reason = 0
        while state.step < settings.num_steps and not reason:
            # The step: everything random in it follows from (seed, step)
            images, labels = next(batches)
            torch.manual_seed(
                derived_seed(settings.seed, Stream.DROPOUT, state.step, self.team.rank)
            )
            lr = state.lr
            state.set_rates()
            with self.cores.lanes.alone():
                self.step(images, labels)
                state.advance()

            # What the world gets to see of it
            if self.pace.count_step():
                line, seconds = self.forecast.describe()
                self.progress.say(line, predicted=seconds)
            facts = self._report(lr)
            self.progress.update(settings.batch_size, **facts)

            # Whether to go on
            out_of_time = self._is_out_of_time()
            reason = agreement.reached(asked_to_stop() or (OUT_OF_TIME if out_of_time else 0))
        if reason and state.step < settings.num_steps:
            if self._saved_step != state.step:
                self._save()
        elif reason != OUT_OF_TIME and state.step >= settings.num_steps:
            reason = 0  # asked to stop when there was nothing left to do
        if self.team.is_lead:
            self.folder.wait()
        return reason

    # Between steps ------------------------------------------------------------------------------

    def _report(self, lr: float | torch.Tensor) -> dict[str, float]:
        """Record, preview and save where one is due; returns what the progress bar shows."""
        settings, state = self.settings, self.state
        is_last = state.step == settings.num_steps
        saves = self._is_due(settings.checkpoint_every_kimg)
        records = saves or self._is_due(settings.log_every_kimg)
        previews = self._is_due(settings.preview_every_kimg)
        # Where the rates of two budgets part, the higher one later goes on: only a checkpoint, for
        # a training with that budget at once has no record here.
        parts = state.images_seen == self._settled_images
        if not (records or previews or is_last or parts):
            return {}

        facts: dict[str, float] = {}
        held_out_loss = None
        if records or is_last:
            self._refuse_endless_skips()
            if self.team.is_lead:
                if self.held_out is not None and (saves or is_last):
                    with self._pausing_for(HELD_OUT), state.averaged():
                        measured = self.cores.measured(state.model)
                        held_out_loss = self.held_out(measured, self.precision)
                facts = self._record(lr, held_out_loss)
            # The record at the end of a budget that is no whole interval is an extra one: a higher
            # budget later must find the sums as if it had not been made.
            if records:
                state.clear_loss()
        if (previews or is_last) and self.team.is_lead:
            self._preview()
        if saves or is_last or parts:
            self._save()
        return facts

    def _is_due(self, every_kimg: float | None) -> bool:
        """Whether the last step reached or passed a multiple of the interval."""
        if every_kimg is None:
            return False
        every, seen = 1000 * every_kimg, self.state.images_seen
        return seen // every > (seen - self.settings.batch_size) // every

    def _record(self, lr: float | torch.Tensor, held_out_loss: float | None) -> dict[str, float]:
        state, counters = self.state, self.state.counters
        loss = float(counters["loss_sum"]) / max(int(counters["loss_count"]), 1)
        record: dict[str, Any] = {
            "step": state.step,
            "images_seen": state.images_seen,
            "epoch": state.images_seen / self.num_train_images,
            "loss": loss if int(counters["loss_count"]) else float("nan"),
            "lr": float(lr),
            "grad_norm": float(counters["grad_norm"]),
            "skipped_updates": int(counters["skipped"]),
            "images_per_second": self.pace.lap(),
            "elapsed_seconds": self.pace.elapsed_seconds,
        }
        if held_out_loss is not None:
            record["held_out_loss"] = held_out_loss
        self.tracker.record(record)
        return {"loss": record["loss"]}

    def _preview(self) -> None:
        path = preview_path(self.folder.previews_path, self.state.images_seen)
        with self._pausing_for(PREVIEW):
            write_preview(path, self.state, self.precision, lambda _: self.progress.update(0))
        self.tracker.preview(path, {"step": self.state.step, "images_seen": self.state.images_seen})

    def _save(self) -> None:
        self._refuse_endless_skips()
        self._saved_step = self.state.step
        if self.team.is_lead:
            self.tracker.sync()
            self.folder.save(
                self.state.tensors(),
                {
                    **self.state.facts(),
                    **self.cores.facts(),
                    "elapsed_seconds": self.pace.elapsed_seconds,
                },
                step=self.state.step,
                images_seen=self.state.images_seen,
            )

    def _refuse_endless_skips(self) -> None:
        in_row = int(self.state.counters["skipped_in_row"])
        if in_row <= self.settings.max_skipped_updates:
            return
        self.folder.wait()
        good = self.folder.latest()
        where = f"the last good checkpoint is {good.path}" if good else "no checkpoint was written"
        raise InputError(
            f"training: at step {self.state.step:,} the last {in_row} updates had a loss or "
            f"gradient that was not finite (training.max_skipped_updates="
            f"{self.settings.max_skipped_updates}); {where}; try a lower learning rate, "
            "training.clip_norm or training.precision=fp32"
        )

    def _write_model(self) -> None:
        state = self.state
        path = preview_path(self.folder.previews_path, state.images_seen)
        if state.step < self.settings.num_steps:
            self.progress.say(
                f"time is up after {duration(self.pace.session_seconds)} at "
                f"{state.images_seen:,} of {self.settings.budget_images:,} images"
            )
        if not path.exists():  # the time was up, or only the model was left to write
            self._preview()
        provenance = {
            **state.model.spec.provenance,
            "step": state.step,
            "images_seen": state.images_seen,
            "fingerprint": self.folder.fingerprint,
        }
        spec = replace(state.model.spec, provenance=provenance)
        save_model(self.folder.model_path, spec, state.weight_sets())
        self.folder.finished(state.images_seen)

    def _is_out_of_time(self) -> bool:
        minutes = self.settings.max_minutes
        return minutes is not None and self.pace.session_seconds >= 60 * minutes

    # What is said -------------------------------------------------------------------------------

    def _announce(self) -> None:
        cost = describe_cost(self.state, self.step.rows, self.precision)
        logger.info("model: %s", cost)
        workers = f"{self.team.world_size} workers, " if self.team.world_size > 1 else ""
        logger.info(
            "device: %s%s, precision %s (%s), images %s",
            workers,
            self.device,
            self.precision.name,
            self.precision.reason,
            self.feed.placement,
        )
        self.tracker.note("model", cost)

    def _say_what_it_took(self) -> None:
        seconds = {
            "training": self.pace.session_seconds,
            "previews": self.pace.spent.get(PREVIEW, 0.0),
        }
        training, previews = map(duration, seconds.values())
        self.progress.say(f"training took {training}, of which previews {previews}", took=seconds)

    @contextmanager
    def _pausing_for(self, activity: str) -> Iterator[None]:
        with self.progress.doing(activity), self.pace.paused(activity):
            yield


def device_of(settings: TrainingSettings, team: Team) -> torch.device:
    """The device of this process: with several on a machine, the GPU of its local rank."""
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index is None:  # pragma: cuda only
        device = torch.device("cuda", team.local_rank if team.world_size > 1 else 0)
    return device
