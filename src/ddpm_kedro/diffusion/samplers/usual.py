"""Which sampler draws: the model's own, the usual one of its schedule, or what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddpm_kedro.diffusion.noise_schedule import (
    STRAIGHT_PATH,
    VARIANCE_EXPLODING,
    VARIANCE_PRESERVING,
)

SAMPLERS = "ddpm_kedro.diffusion.samplers"
# By the schedule's family, for a model that came without a sampler
USUAL_SAMPLERS: Mapping[str, dict[str, Any]] = {
    VARIANCE_PRESERVING: {"type": f"{SAMPLERS}.DDIM", "num_steps": 50},
    VARIANCE_EXPLODING: {"type": f"{SAMPLERS}.Heun", "num_steps": 18, "spacing": "karras"},
    STRAIGHT_PATH: {"type": f"{SAMPLERS}.FlowHeun", "num_steps": 25},
}


def drawn_with(
    own: Mapping[str, Any], asked: Mapping[str, Any] | None, num_steps: int | None = None
) -> dict[str, Any]:
    """The option of the sampler that draws.

    own: option of the model's own sampler; asked: None for that one, an option in its place, or, a
    table without a type, arguments that change it; num_steps: of whichever it is, None for its own.
    """
    option = {**(own if asked is None or "type" not in asked else {}), **(asked or {})}
    return option if num_steps is None else {**option, "num_steps": num_steps}
