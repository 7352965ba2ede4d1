"""What our commands share."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.cli.utils import _split_params

from ddpm_kedro.errors import InputError


class ProjectCommand(click.Command):
    """A command that says a user's mistake (an `InputError`) in one line, with exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except InputError as error:
            raise click.ClickException(str(error)) from None


def params_option(help: str) -> Any:
    """`--params`, as `kedro run` reads it."""
    return click.option("--params", default="", callback=_split_params, help=help)
