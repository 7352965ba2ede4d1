"""Diffusion models of images as a reproducible Kedro project."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# What YAML and model files may name as `ddpm_kedro.DDIM`, by module. A class that moves leaves its
# name in the module listed here: files and fingerprints of earlier versions know it by that path.
_MODULES = {
    "images": "Digits ImageFolder ParquetImages TorchvisionImages",
    "diffusion.backbones.compact": "CompactUNet",
    "diffusion.backbones.ddpm": "DDPMUNet",
    "diffusion.backbones.edm": "DDPMPlusPlus",
    "diffusion.backbones.homework": "HomeworkUNet",
    "diffusion.loss_weight": "EDMWeight MinSNRWeight P2Weight SoftMinSNRWeight UniformWeight",
    "diffusion.model": "load_model",
    "diffusion.noise_schedule": "CosineSchedule EDMSchedule FlowSchedule LinearSchedule "
    "SigmoidSchedule ZeroTerminalSNR",
    "diffusion.objective": "EDMPreconditioning EpsilonPrediction FlowVelocity VPrediction "
    "X0Prediction",
    "diffusion.samplers": "Ancestral DDIM DPMSolver2M DPMSolver2S Euler FlowEuler FlowHeun Heun",
    "diffusion.samplers.thresholding": "DynamicThreshold",
    "diffusion.timesteps": "LogNormalTimesteps StratifiedTimesteps UniformTimesteps",
    "evaluation.features": "AutoFeatures DINOv2 EfficientNetLite Inception PrincipalComponents",
    "training.augmentation": "Flip NoAugmentation",
    "training.lr_schedule": "Constant Cosine LinearWarmup WarmupStableDecay",
}
PUBLIC = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import ddpm_kedro` (which Kedro does at every command) does not import torch.
    if name in PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
