"""One optimizer step: a function of tensors on the device, with no I/O and no word to the host."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.lanes import Lanes, drawing_from
from ddpm_kedro.diffusion.noise import Stream, normal, uniform
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.images.pixels import normalise
from ddpm_kedro.training.step.generators import derived_seed
from ddpm_kedro.training.step.state import LearningState, laid_out_as
from ddpm_kedro.training.workers.team import Team

SCALE_GROWTH_STEPS = 2000
MAX_LOSS_SCALE = 2.0**24


class LossModule(nn.Module):
    """The denoiser's loss as a module's forward, which is what DDP and torch.compile wrap."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """As `Denoiser.loss`: (B,) float32."""
        return self.denoiser.loss(x0, t, noise, labels)


class TrainingStep:
    """Draws, loss, gradients, update, counters: what happens between two states.

    Everything random is drawn for rows of the *global* batch, so another split into workers or
    micro-batches sees the same images, t, noise, flips and dropped labels. A loss or gradient that
    is not finite leaves weights and optimizer as they were, by a flag that stays on the device.

    `loss` is a `LossModule` or one that wraps it; `draw` is `draws_of`, or a compiled one. `lanes`
    split each micro-batch: only on a CPU, in one process, with a loss that is not compiled and a
    network of which lanes share nothing but weights; None: whole micro-batches.
    """

    def __init__(
        self,
        state: LearningState,
        loss: nn.Module,
        precision: Precision,
        team: Team,
        lanes: Lanes | None = None,
    ) -> None:
        settings = state.settings
        self.state, self.loss, self.precision, self.team = state, loss, precision, team
        self.lanes = lanes or Lanes(1)
        self.draw = self.draws_of
        self.augmentation = build(settings.augmentation)
        self.timesteps = build(settings.timesteps)
        self.schedule = state.model.denoiser.schedule
        # The schedule's table goes to the device now: inside a compiled loss its first use would
        # be a guard that fails at the next step, which compiles everything once more.
        self.schedule.alpha(torch.zeros(1, device=state.device))
        part = team.part_of(settings.batch_size)
        self.rows = torch.arange(part.start, part.stop, device=state.device)  # (b,)
        self.batch_size = settings.batch_size
        self.micro_batch_size = settings.micro_batch_size or len(self.rows)
        self.label_dropout = settings.label_dropout if settings.conditional else 0.0
        self.seed = settings.seed
        self.clip_norm = settings.clip_norm
        optimizer = state.optimizer
        self._takes_flag = (
            type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and all(group.get("fused") for group in optimizer.param_groups)
        )  # fmt: skip

    def __call__(self, images: Tensor, labels: Tensor | None) -> None:
        """Take one step with this worker's rows of the global batch: images uint8 (b, C, H, W),
        labels int64 (b,) or None for an unconditional network."""
        with self.lanes.alone():
            self._take(images, labels)

    def _take(self, images: Tensor, labels: Tensor | None) -> None:
        counters, parameters = self.state.counters, self.state.parameters
        self.state.optimizer.zero_grad(set_to_none=True)

        # Gradients of the mean loss over the global batch, one micro-batch after the other
        loss_sum = torch.zeros((), dtype=torch.float32, device=self.rows.device)
        for first in range(0, len(self.rows), self.micro_batch_size):
            part = slice(first, min(first + self.micro_batch_size, len(self.rows)))
            if self.lanes.count > 1:
                loss_sum += self._add_gradients_of_lanes(images, labels, part)
                continue
            with self._gradient_sync(is_last=part.stop == len(self.rows)):
                loss, scaled = self._loss(images, labels, part)
                scaled.backward()
            loss_sum += loss.detach()
        self.team.sum_(loss_sum)

        # The global norm, whether all is finite, and clipping
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.precision.needs_loss_scale:
            torch._foreach_mul_(gradients, counters["loss_scale"].reciprocal())
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        is_finite = norm.isfinite() & loss_sum.isfinite()
        if self.clip_norm is not None:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            if factor.device.type != "cpu" or factor != 1.0:  # only on a CPU may the host look
                torch._foreach_mul_(gradients, factor)

        # The update, or none
        self._update(is_finite, gradients)

        # What the next record will say, kept on the device
        counters["step"] += 1
        counters["loss_sum"] += torch.where(is_finite, loss_sum, 0.0)
        counters["loss_count"] += is_finite
        counters["grad_norm"].copy_(norm)
        counters["skipped"] += ~is_finite
        counters["skipped_in_row"].copy_((counters["skipped_in_row"] + 1) * ~is_finite)
        if self.precision.needs_loss_scale:
            self._move_loss_scale(is_finite)

    def rehearse(self) -> None:
        """One pass forward and back, of a micro-batch, whose gradients are thrown away.

        DDP orders its buckets anew after its first pass, which changes the order of sums; without
        this, a resumed training would take one step in another order than one never stopped. And
        what torch.compile makes of both passes is made, or fails, before there is anything to lose.
        """
        spec, rows = self.state.model.spec, self.rows[: self.micro_batch_size]
        x0 = torch.zeros((len(rows), *spec.image_shape), device=rows.device)
        labels = torch.zeros_like(rows) if spec.conditional else None
        u = torch.full((len(rows),), 0.5, device=rows.device)
        t = self.timesteps(u, rows, self.batch_size, self.schedule)
        with self.precision.autocast():
            loss = self.loss(x0, t, torch.zeros_like(x0), labels).sum()
        loss.backward()
        self.state.optimizer.zero_grad(set_to_none=True)

    def _loss(self, images: Tensor, labels: Tensor | None, part: slice) -> tuple[Tensor, Tensor]:
        """This part's share of the mean loss over the global batch; and what is differentiated."""
        x0, t, noise, given = self.draw(images[part], labels, part)
        with self.precision.autocast():
            loss = self.loss(x0, t, noise, given).sum() / self.batch_size
        # DDP takes the mean over workers of what is already a share of the global mean.
        scaled = loss * self.team.world_size
        if self.precision.needs_loss_scale:
            scaled = scaled * self.state.counters["loss_scale"]
        return loss, scaled

    def _add_gradients_of_lanes(self, images: Tensor, labels: Tensor | None, part: slice) -> Tensor:
        """As a backward pass of `part` would; returns its loss.

        Lanes are added up in their order, whichever is done first, and each has dropout of its own,
        so that running them on fewer cores changes nothing.
        """
        parameters = self.state.parameters

        def one_lane(own: slice) -> tuple[Tensor, list[Tensor | None]]:
            numbers = self.seed, Stream.DROPOUT, self.state.step, own.start
            with drawing_from(torch.Generator().manual_seed(derived_seed(*numbers))):
                loss, scaled = self._loss(images, labels, own)
                gradients = torch.autograd.grad(scaled, parameters, allow_unused=True)
            return loss.detach(), [
                # Fused optimizers and weights walk through both in memory order.
                g if g is None or g.stride() == p.stride() else laid_out_as(p, g)
                for p, g in zip(parameters, gradients, strict=True)
            ]

        owns = [
            slice(part.start + own.start, part.start + own.stop)
            for own in self.lanes.parts(part.stop - part.start)
        ]
        loss_sum = torch.zeros((), dtype=torch.float32)
        for loss, gradients in self.lanes.map(one_lane, owns):
            loss_sum += loss
            sums, addends = [], []
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    sums.append(parameter.grad)
                    addends.append(gradient)
            if sums:
                torch._foreach_add_(sums, addends)
        return loss_sum

    def draws_of(
        self, images: Tensor, labels: Tensor | None, part: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x_0 (B, C, H, W), t (B,), noise (B, C, H, W) and labels (B,) of the rows in `part`."""
        rows, step, seed = self.rows[part], self.state.counters["step"], self.seed
        x0 = normalise(self.augmentation(images, seed=seed, step=step, rows=rows))
        u = uniform(seed, Stream.TIMESTEP, step, rows)
        t = self.timesteps(u, rows, self.batch_size, self.schedule)
        noise = normal(seed, Stream.NOISE, step, rows, x0.shape[1:])
        if labels is None:
            return x0, t, noise, None
        given = labels[part]
        if self.label_dropout:
            chance = uniform(seed, Stream.LABEL_DROPOUT, step, rows)
            null = len(self.state.model.spec.classes)
            given = torch.where(chance < self.label_dropout, null, given)
        return x0, t, noise, given

    def _gradient_sync(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Workers add their gradients up once, in the backward pass of the last micro-batch."""
        if isinstance(self.loss, nn.parallel.DistributedDataParallel) and not is_last:
            return self.loss.no_sync()
        return contextlib.nullcontext()

    @torch.no_grad()
    def _update(self, is_finite: Tensor, gradients: list[Tensor]) -> None:
        optimizer = self.state.optimizer
        if self.rows.device.type == "cpu":  # the host may look: there is nothing to wait for
            if is_finite:
                optimizer.step()
            return
        if self._takes_flag:  # fused Adam obeys it inside its kernel
            optimizer.found_inf = (~is_finite).to(torch.float32)
            optimizer.grad_scale = None
            optimizer.step()
            return
        self._update_by_flag(is_finite, gradients)

    @torch.no_grad()
    def _update_by_flag(self, is_finite: Tensor, gradients: list[Tensor]) -> None:
        """Any optimizer: it steps with gradients of zero, and its work is then taken back."""
        optimizer = self.state.optimizer
        for gradient in gradients:
            gradient.copy_(torch.where(is_finite, gradient, 0.0))
        values: list[Tensor] = list(self.state.parameters)
        values += [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.device == self.rows.device
        ]
        before = [value.detach().clone() for value in values]
        optimizer.step()
        for value, earlier in zip(values, before, strict=True):
            value.copy_(torch.where(is_finite, value, earlier))

    @torch.no_grad()
    def _move_loss_scale(self, is_finite: Tensor) -> None:
        """Halve it after an overflow, double it after 2,000 steps without one."""
        scale, good = self.state.counters["loss_scale"], self.state.counters["good_steps"]
        good.copy_((good + 1) * is_finite)
        grows = good >= SCALE_GROWTH_STEPS
        grown = torch.where(grows, scale * 2.0, scale).clamp(max=MAX_LOSS_SCALE)
        scale.copy_(torch.where(is_finite, grown, (scale * 0.5).clamp(min=1.0)))
        good.copy_(good * ~grows)
