"""Networks that look at a noisy image and a time: `(x, t, labels) -> output` of x's shape."""

from ddpm_kedro.diffusion.backbones.compact import CompactUNet
from ddpm_kedro.diffusion.backbones.ddpm import DDPMUNet
from ddpm_kedro.diffusion.backbones.edm import DDPMPlusPlus
from ddpm_kedro.diffusion.backbones.homework import HomeworkUNet

__all__ = ["CompactUNet", "DDPMPlusPlus", "DDPMUNet", "HomeworkUNet"]
