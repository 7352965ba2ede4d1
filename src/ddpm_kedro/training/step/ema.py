"""Exponential moving averages of the weights, several half-lives at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class EMA:
    """theta_ema <- theta + beta (theta_ema - theta), beta = 2^(-batch / h), after every step.

    h is the half-life in images, at most `warmup_ratio` times the images seen so far, so that an
    early average is not dominated by the random start (Karras et al. 2022, EDM's training loop);
    None: no warm-up; h = 0 follows the weights. All averages start as copies of `parameters`, are
    kept in fp32 and moved by one foreach call.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        halflives_images: Sequence[float],
        warmup_ratio: float | None,
    ) -> None:
        self.halflives_images = tuple(halflives_images)
        self.warmup_ratio = warmup_ratio
        self._parameters = list(parameters)
        self.averages = [
            [parameter.detach().to(torch.float32, copy=True) for parameter in self._parameters]
            for _ in self.halflives_images
        ]

    def betas(self, images_seen: int, batch_size: int) -> list[float]:
        """What stays of each average in a step of `batch_size` images after `images_seen`."""
        betas = []
        for halflife in self.halflives_images:
            if self.warmup_ratio is not None:
                halflife = min(halflife, images_seen * self.warmup_ratio)
            betas.append(0.5 ** (batch_size / halflife) if halflife > 0 else 0.0)
        return betas

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Move every average towards the weights; arguments as of `betas`."""
        averages, weights, shares = [], [], []
        for average, beta in zip(self.averages, self.betas(images_seen, batch_size), strict=True):
            averages += average
            weights += self._parameters
            shares += [1.0 - beta] * len(average)
        torch._foreach_lerp_(averages, weights, shares)
