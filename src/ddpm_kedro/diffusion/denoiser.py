"""The denoiser: a network, told what it predicts and on which schedule, behind one method."""

from __future__ import annotations

from torch import Tensor, nn

from ddpm_kedro.diffusion.loss_weight import LossWeight, UniformWeight
from ddpm_kedro.diffusion.noise_schedule import NoiseSchedule, at_least_float32, perturb
from ddpm_kedro.diffusion.objective import Objective
from ddpm_kedro.errors import InputError


class Denoiser(nn.Module):
    """Estimate of x_0 from x_t = alpha(t) x_0 + sigma(t) eps, whatever the network predicts.

    network: called with images (B, C, H, W), the schedule's time input (B,) float32 and, for a
    conditional one, labels (B,) int64; answers (B, C, H, W). Schedule, noise and loss stay in fp32
    or wider under autocast; only the network runs in half precision.

    Raises InputError where the objective is undefined on the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        objective: Objective,
        loss_weight: LossWeight | None = None,
    ) -> None:
        super().__init__()
        objective.check(schedule)
        self.network, self.schedule, self.objective = network, schedule, objective
        self.loss_weight = loss_weight or UniformWeight()

    @property
    def num_classes(self) -> int | None:
        """Classes of a conditional network (the index num_classes means no label), else None."""
        return getattr(self.network, "num_classes", None)

    def _output(
        self, x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, labels: Tensor | None
    ) -> Tensor:
        time_input = self.schedule.time_input(t).expand(len(x))  # (B,)
        scaled = self.objective.scale_input(x, alpha, sigma)
        if labels is not None and self.num_classes is None:
            raise InputError(
                f"labels were given, but {type(self.network).__name__} has no num_classes: "
                "this model was trained without classes"
            )
        given = () if labels is None else (labels,)
        output = self.network(scaled, time_input, *given)
        if output.shape != x.shape:
            raise InputError(
                f"{type(self.network).__name__}: makes {tuple(output.shape[1:])} of images of "
                f"{tuple(x.shape[1:])}; a backbone's output has the shape of its input"
            )
        return output

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] as the network sees it, (B, C, H, W), float32 (float64 if x is).

        x: (B, C, H, W); t: (B,) or 0-dim, a time of the schedule with sigma(t) > 0; labels: (B,)
        int64 in 0..num_classes, or None.
        """
        x = at_least_float32(x)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.objective.to_x0(x, self._output(x, t, alpha, sigma, labels), alpha, sigma)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Weighted mean square error of the network's output, one number a row: (B,) float32.

        x0, noise: (B, C, H, W), pixels in [-1, 1] and N(0, 1) numbers; t: (B,) times; labels: (B,)
        int64 or None. All on one device. Ho et al. 2020, eq. 14, with w(t) of the loss weight.
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x = perturb(x0, noise, alpha, sigma)
        target = self.objective.target(x0, noise, alpha, sigma)
        output = self._output(x, t, alpha, sigma, labels)
        square_error = (output.to(target.dtype) - target).square().flatten(1).mean(1)  # (B,)
        return self.loss_weight(alpha, sigma, self.objective).to(target.dtype) * square_error
