"""The whole parameter tree is checked before anything else happens."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.hooks import hook_impl

from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import Parameters


class ParameterCheck:
    """Refuses wrong parameters when the context is made: before data is read, a model is built or
    a W&B run is begun. Whether samplers fit the schedule is asked when it is known that the run
    trains: one that only draws asks the schedule in the model file."""

    _checked: tuple[Any, ...] = ()

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        try:
            parameters = Parameters.from_tree(context.config_loader["parameters"])
            # Not at the top: a wrong key is told without waiting for torch
            from ddpm_kedro.option_check import check_options

            self._checked = (parameters, *check_options(parameters))
        except InputError as mistake:
            error = context.config_loader.placed(mistake)
            # Under `kedro viz` no session of ours is there to print the line.
            if click.get_current_context(silent=True) is None:
                raise error from mistake
            raise click.ClickException(str(error)) from error

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Any) -> None:
        if self._checked and "params:training" in pipeline.inputs():
            from ddpm_kedro.option_check import check_samplers

            check_samplers(*self._checked)
