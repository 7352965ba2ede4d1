"""The whole parameter tree is checked before anything else happens."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.hooks import hook_impl

from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import Parameters


class ParameterCheck:
    """Refuses wrong parameters when the context is made: before data is read, a model is built or
    a W&B run is begun."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        try:
            Parameters.from_tree(context.config_loader["parameters"])
        except InputError as error:
            # Under `kedro viz` no session of ours is there to print the line.
            if click.get_current_context(silent=True) is None:
                raise
            raise click.ClickException(str(error)) from error
