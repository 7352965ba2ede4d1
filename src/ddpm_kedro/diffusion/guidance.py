"""Guidance: sampling pushed towards a class label, as a denoiser around a denoiser.

No label is the index num_classes, sample by sample: a batch may mix labelled and unlabelled rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise_schedule import per_row
from ddpm_kedro.errors import InputError


class ClassifierFreeGuidance(nn.Module):
    """x_0 = x_0(no label) + scale (x_0(label) - x_0(no label)).

    Ho & Salimans 2022, eq. 6 with scale = w + 1: 0 is exactly the unconditional estimate, 1 exactly
    the conditional one, and either costs one call of the network; other scales run it on a batch of
    twice the size. Rows without a label (index num_classes) get the unconditional estimate.

    interval: (low, high) of sigma/alpha; outside low < sigma/alpha <= high the scale is 1
    (Kynkaanniemi et al. 2024, eq. 5).

    Raises InputError if the denoiser's network knows no classes, and when called without labels.
    """

    def __init__(
        self, denoiser: Denoiser, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        if denoiser.num_classes is None:
            raise InputError(
                "guidance needs a class-conditional model and this one was trained without labels; "
                "train with training.conditional=true and label dropout, or sample without guidance"
            )
        if not scale >= 0:
            raise InputError(f"guidance scale: at least 0, not {scale}")
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise InputError(f"guidance interval: 0 <= low < high of sigma/alpha, not {interval}")
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.num_classes = denoiser.num_classes  # the index that means no label
        self.scale = float(scale)
        self.interval = None if interval is None else (float(interval[0]), float(interval[1]))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Guided estimate of x_0, (B, C, H, W); x, t, labels as for `Denoiser.forward`."""
        if labels is None:
            raise InputError("guidance needs labels: give one class for every sample")
        if self.scale == 1:
            return self.denoiser(x, t, labels)
        none = torch.full_like(labels, self.num_classes)
        if self.scale == 0 and self.interval is None:
            return self.denoiser(x, t, none)
        times = t.expand(len(x)).repeat(2)  # (2B,)
        both = self.denoiser(torch.cat([x, x]), times, torch.cat([labels, none]))
        with_label, without = both.chunk(2)  # (B, C, H, W) each
        guided = torch.where(
            per_row(labels == self.num_classes, x).bool(),
            without,
            without + self.scale * (with_label - without),
        )
        if self.interval is None:
            return guided
        ratio = self.schedule.sigma(t) / self.schedule.alpha(t)
        inside = (ratio > self.interval[0]) & (ratio <= self.interval[1])
        # Decided on the device: reading t back would stop the host at every step.
        return torch.where(per_row(inside, x).bool(), guided, with_label)
