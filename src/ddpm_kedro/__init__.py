"""Diffusion models of images as a reproducible Kedro project."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import ddpm_kedro` (which Kedro does at every command) does not import torch.
    if name == "load_model":
        from ddpm_kedro.diffusion.model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
