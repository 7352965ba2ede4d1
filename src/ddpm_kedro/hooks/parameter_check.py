"""The whole parameter tree is checked before anything else happens."""

from __future__ import annotations

import threading
from typing import Any

import click
from kedro.framework.hooks import hook_impl

from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import Parameters


class ParameterCheck:
    """Refuses wrong parameters before data is read, a model is built or a W&B run is begun.

    The shape of the tree is checked when the context is made. The chosen options are built, which
    takes torch, when the first node of a `kedro run` starts, so that a run in which nothing has
    changed does without; whoever else makes a context, a notebook say, is told at once. Whether
    samplers fit the schedule is asked of a run that trains: one that only draws asks the schedule
    in the model file.
    """

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._built: tuple[Any, ...] | None = None  # what options became, once they are checked
        self._trains = False
        self._lock = threading.Lock()  # nodes that start at once all wait for the check

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        command = click.get_current_context(silent=True)
        try:
            self._parameters = Parameters.from_tree(context.config_loader["parameters"])
            self._built = None
            if command is None or "runner" not in command.params:  # not `kedro run`
                self._check_options()
        except InputError as mistake:
            error = context.config_loader.placed(mistake)
            # Under `kedro viz` no session of ours is there to print the line.
            if command is None:
                raise error from mistake
            raise click.ClickException(str(error)) from error

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Any) -> None:
        self._trains = "params:training" in pipeline.inputs()

    @hook_impl(tryfirst=True)
    def before_dataset_loaded(self) -> None:
        with self._lock:
            if self._parameters is None:
                return
            self._check_options()
            if self._trains:
                from ddpm_kedro.option_check import check_samplers

                check_samplers(self._parameters, *self._built)
                self._trains = False

    before_node_run = before_dataset_loaded  # of a node without inputs

    def _check_options(self) -> None:
        if self._built is None:
            from ddpm_kedro.option_check import check_options

            self._built = check_options(self._parameters)
