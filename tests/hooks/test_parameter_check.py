"""The check asks of a run what that run does: one that only draws has its schedule in a file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.pipeline import Pipeline, node

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.hooks.parameter_check import ParameterCheck
from ddpm_kedro.pipelines import sampling, training

CONF = Path(__file__).parents[2] / "conf"


def checked(**given: object) -> ParameterCheck:
    loader = LayeredConfigLoader(
        str(CONF),
        runtime_params=given,
        base_env="base",
        default_run_env="local",
        merge_strategy={"parameters": "soft"},
    )
    check = ParameterCheck()
    check.after_context_created(SimpleNamespace(config_loader=loader))
    return check


def test_a_sampler_is_held_against_the_schedule_of_the_run_that_trains() -> None:
    check = checked(sampler="flow_heun")
    check.before_pipeline_run(sampling.create_pipeline())
    with pytest.raises(InputError, match=r"samplers\.flow_heun: FlowHeun follows"):
        check.before_pipeline_run(training.create_pipeline() + sampling.create_pipeline())


def test_a_mistake_is_told_before_it_is_known_what_runs() -> None:
    with pytest.raises(InputError, match=r"sampling\.sampler: .*'num_steps'"):
        checked(sampling={"sampler": {"type": "ddpm_kedro.diffusion.samplers.DDIM"}})


def test_a_run_before_any_check_passes() -> None:
    ParameterCheck().before_pipeline_run(Pipeline([node(len, "params:training", "length")]))
