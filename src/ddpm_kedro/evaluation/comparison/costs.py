"""What runs took: images, time, and the size of their networks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ddpm_kedro.diffusion.cost import Cost, cost_of
from ddpm_kedro.diffusion.model_spec import OWN_MODULES, ModelSpec
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.comparison.runs import Run

TITLES = {
    "images_seen": "training images",
    "minutes": "minutes of training",
    "images_per_second": "images a second",
    "parameters": "parameters",
    "training_gflop": "GFLOP a training image",
    "device": "device",
    "torch": "torch",
}


def costs(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Of each run, by name, the columns of `TITLES`; None for what nothing tells. Networks are
    counted, not run, each kind once, and those of somebody else's classes are not built."""
    counted: dict[str, Cost | None] = {}
    found = {}
    for run in runs:
        kind = json.dumps({**run.model, "provenance": None}, sort_keys=True)
        if kind not in counted:
            counted[kind] = _counted(run.model)
        origin, last = run.model.get("provenance", {}), (run.log[-1] if run.log else {})
        seen = last.get("images_seen", origin.get("images_seen"))
        seconds, cost = last.get("elapsed_seconds"), counted[kind]
        device = (run.parameters or {}).get("training", {}).get("device")
        found[run.name] = {
            "images_seen": seen,
            "minutes": seconds and seconds / 60,
            "images_per_second": seen / seconds if seconds else None,
            "parameters": cost and cost.parameters,
            "training_gflop": cost and cost.training_flops / 1e9,
            "device": None if device == "auto" else device,
            "torch": origin.get("torch"),
        }
    return found


def _counted(model: Mapping[str, Any]) -> Cost | None:
    with contextlib.suppress(InputError), torch.device("meta"):
        spec = ModelSpec.from_dict(model)
        return cost_of(spec.build("backbone", OWN_MODULES), spec.image_shape)
    return None
