"""The life of a training in one process: built or resumed, step by step, saved, finished."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.model import Model, save_model
from ddpm_kedro.diffusion.model_file import read_model_file
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.noise import Stream
from ddpm_kedro.diffusion.precision import choose_device, choose_precision
from ddpm_kedro.errors import InputError
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.estimates import HELD_OUT, QUICK_SCORE, Forecast, Pace, times_due
from ddpm_kedro.training.quick_score import BestWeights, quick_score
from ddpm_kedro.training.reporting import Report
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.core_use import choose_core_use
from ddpm_kedro.training.step.data_feed import DataFeed, EpochOrder
from ddpm_kedro.training.step.generators import derived_seed, own_generators
from ddpm_kedro.training.step.held_out import HeldOutLoss, split_rows
from ddpm_kedro.training.step.memory import FittingStep
from ddpm_kedro.training.step.state import LearningState, under
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.team import Agreement, Team, newest_of_all


@dataclass(frozen=True)
class Outcome:
    """How far a run of the loop came, and the signal that stopped it; 0: none did."""

    step: int
    images_seen: int
    signum: int = 0


class TrainingRun:
    """Everything one process needs to train, built and, if there is a checkpoint, restored. Of a
    `team` only the lead writes to `folder` and `tracker`."""

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
        self._settled_images, self._saved_step = settings.settled_images, -1

        # Where: device, precision, and this process's rows of each batch
        self.device = device_of(settings, team)
        if self.device.type == "cuda":  # pragma: cuda only
            torch.cuda.set_device(self.device)  # streams and graphs are those of the current one
        self.precision = choose_precision(settings.precision, self.device)
        part = team.part_of(settings.batch_size)
        share = part.stop - part.start

        # State: that of the newest whole checkpoint, or new, or with the weights of a model file
        checkpoint = newest_of_all(folder.latest(), team)
        with own_generators(self.device):
            torch.manual_seed(derived_seed(settings.seed, Stream.WEIGHTS))
            model = Model(spec)
        if checkpoint is None and settings.init_from is not None:
            model.network.load_state_dict(initial_weights(settings.init_from, model.network))
        model.network.to(self.device).train()
        self.state = LearningState(model, settings)
        if checkpoint is not None:
            self.state.restore(checkpoint)

        # Data: what is trained on, in which order, and what is held out
        fraction, most = settings.held_out_fraction, settings.held_out_images
        rows, held_out_rows = split_rows(len(images), fraction, most)
        data = images.images, images.labels if settings.conditional else None
        order, batch_size = EpochOrder(rows, settings.seed), settings.batch_size
        self.feed = DataFeed(*data, order, batch_size=batch_size, part=part, device=self.device)
        self.held_out = None
        if len(held_out_rows):
            at_once = max(min(settings.micro_batch_size or share, share), 16)
            timesteps = build(settings.timesteps)
            self.held_out = HeldOutLoss(*data, held_out_rows, timesteps, settings.seed, at_once)

        # The quick score, which the lead alone measures, and the best weights by it
        self.quick_score = None
        if team.is_lead:
            self.quick_score = quick_score(images.images, held_out_rows, self.state)
        self.best = BestWeights.of_checkpoint(checkpoint, self.quick_score)
        self._scored: tuple[int, float] | None = None  # the step that was last, and its score

        # The step, and what is said of it
        facts = None if checkpoint is None else checkpoint.facts
        self.cores = choose_core_use(self.state, self.precision, team, facts)
        self.step = FittingStep(self.state, self.precision, team, self.cores.lanes)
        pace = Pace(self.device, settings.batch_size, facts["elapsed_seconds"] if facts else 0.0)
        seconds = self.quick_score.feature_seconds if self.quick_score else 0.0
        forecast = Forecast(self.state, pace, share, len(held_out_rows), seconds)
        self.report = Report(self.state, self.precision, folder, tracker, team, forecast, len(rows))

    def __call__(self, asked_to_stop: Callable[[], int]) -> Outcome:
        """Train until the budget or the time is used up, or `asked_to_stop`, called at every step,
        gives the number of a signal that came (else 0). InputError where too many updates in a row
        were skipped, or the disk failed."""
        state, settings, agreement = self.state, self.settings, Agreement(self.team)
        signum, time_is_up = 0, False
        most_seconds = math.inf if settings.max_minutes is None else 60 * settings.max_minutes
        with (
            self.report.opened(self.step.rows, self.feed.placement),
            own_generators(self.device),
            self.precision.product_mode(),
            kept_heap(),
            self.cores.in_force(),
        ):
            batches = self.feed.batches(state.step)
            while state.step < settings.num_steps and not (signum or time_is_up):
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
                self.report.count_step()

                # The record, preview and checkpoint that are due after it
                self._write_what_is_due(lr)
                self.report.show()

                # Whether to go on
                time_is_up = self.report.pace.session_seconds >= most_seconds
                signum, time_is_up = agreement.reached(asked_to_stop(), time_is_up)

            # The end: stopped before the budget's, or at it, where there is nothing left to stop
            if state.step >= settings.num_steps:
                signum = 0
            elif self._saved_step != state.step:
                self._save()
            if self.team.is_lead:
                self.folder.wait()
                if not signum:
                    self._finish()
        return Outcome(state.step, state.images_seen, signum)

    def _write_what_is_due(self, lr: float | Tensor) -> None:
        settings, state, is_lead = self.settings, self.state, self.team.is_lead
        is_last = state.step == settings.num_steps
        seen, before = state.images_seen, state.images_seen - settings.batch_size
        saves = times_due(settings.checkpoint_every_kimg, before, seen)
        records = saves or times_due(settings.log_every_kimg, before, seen)
        previews = times_due(settings.preview_every_kimg, before, seen)
        scores = times_due(settings.score_every_kimg, before, seen)
        # Where the rates of two budgets part, the higher one later goes on: only a checkpoint, for
        # a training with that budget at once has no record here.
        parts = seen == self._settled_images

        if records or scores or is_last:
            self._refuse_endless_skips()
            if is_lead:
                held_out_loss = None
                if self.held_out is not None and (saves or is_last):
                    with self.report.pausing_for(HELD_OUT), state.averaged():
                        measured = self.cores.measured(state.model)
                        held_out_loss = self.held_out(measured, self.precision)
                score = self._score(bool(scores)) if scores or is_last else None
                self.report.record(lr, held_out_loss, score)
        # The record at the end of a budget that is no whole interval, or of a score, is an extra
        # one: a higher budget later, and training itself, find the sums as if it were not made.
        if records:
            state.clear_loss()
        if (previews or is_last) and is_lead:
            self.report.preview()
        if saves or is_last or parts:
            self._save()

    def _score(self, counts: bool) -> float | None:
        """The quick score of the state of now, None without any. If it `counts` the weights may be
        the best so far; one at the end of a budget would not be made with a higher one."""
        state = self.state
        if self.quick_score is None:
            return None
        if self._scored is None or self._scored[0] != state.step:
            drawn = dict(precision=self.precision.name, batch_size=state.settings.micro_batch_size)
            with self.report.pausing_for(QUICK_SCORE), state.averaged():
                score = self.quick_score(self.report.tick, **drawn)
                if counts:
                    self.best.offer(score, state.images_seen, state.network)
            self._scored = state.step, score
            self.report.say_if_scores_are_dear()
        return self._scored[1]

    def _save(self) -> None:
        self._refuse_endless_skips()
        state = self.state
        self._saved_step = state.step
        if self.team.is_lead:
            self.tracker.sync()
            facts = {**state.facts(), **self.cores.facts(), **self.best.facts()}
            facts["elapsed_seconds"] = self.report.pace.elapsed_seconds
            tensors = {**state.tensors(), **self.best.tensors()}
            self.folder.save(tensors, facts, step=state.step, images_seen=state.images_seen)

    def _refuse_endless_skips(self) -> None:
        in_row, most = int(self.state.counters["skipped_in_row"]), self.settings.max_skipped_updates
        if in_row <= most:
            return
        self.folder.wait()
        good = self.folder.latest()
        where = f"the last good checkpoint is {good.path}" if good else "no checkpoint was written"
        raise InputError(
            f"training: at step {self.state.step:,} the last {in_row} updates had a loss or "
            f"gradient that was not finite (training.max_skipped_updates={most}); {where}; try a "
            "lower learning rate, training.clip_norm or training.precision=fp32"
        )

    def _finish(self) -> None:
        """The model file, and the news that it is there."""
        state, spec = self.state, self.state.model.spec
        self.report.last_preview()
        origin = {**spec.provenance, "step": state.step, "images_seen": state.images_seen}
        origin["fingerprint"] = self.folder.fingerprint
        weights = state.weight_sets()
        last = self._score(counts=False)
        if self.best.beats(last):
            weights["best"], origin["best_images_seen"] = self.best.weights, self.best.images_seen
        elif last is not None:  # then `best` means these
            origin["best_images_seen"] = state.images_seen
        save_model(self.folder.model_path, replace(spec, provenance=origin), weights)
        self.folder.finished(state.images_seen)
        self.report.say_what_it_took()
        if last is not None:
            self.report.say_which_is_best(last, self.best)


def device_of(settings: TrainingSettings, team: Team) -> torch.device:
    """The device of this process: with several on a machine, the GPU of its local rank."""
    device = choose_device(settings.device)
    if device.type == "cuda" and device.index is None:  # pragma: cuda only
        device = torch.device("cuda", team.local_rank)
    return device


def initial_weights(path: str, network: nn.Module) -> dict[str, Tensor]:
    """The averaged weights in the model file at `path`; nothing that it names is built. InputError
    where it is no whole model file, or its weights do not fit `network`."""
    try:
        _, tensors = read_model_file(Path(path))
    except InputError as error:
        raise InputError(f"training.init_from: {error}") from error
    weights = under(tensors, "ema/")
    if not weights:
        raise InputError(
            f"training.init_from={path}: it has no weights 'ema'; give a model file of this program"
        )
    wanted = {(name, tensor.shape) for name, tensor in network.state_dict().items()}
    found = {(name, tensor.shape) for name, tensor in weights.items()}
    different = sorted({name for name, _ in wanted ^ found})
    if different:
        raise InputError(
            f"training.init_from={path}: its backbone is another one; "
            f"{len(different)} tensors differ, first {different[0]}"
        )
    return weights
