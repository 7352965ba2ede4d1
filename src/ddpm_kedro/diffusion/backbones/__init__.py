"""Networks that look at a noisy image and a time: ``(x, t, labels) -> output``, all of one shape."""

from __future__ import annotations

from ddpm_kedro.diffusion.backbones.compact import CompactUNet
from ddpm_kedro.diffusion.backbones.homework import HomeworkUNet

__all__ = ["CompactUNet", "HomeworkUNet"]
