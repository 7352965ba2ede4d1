"""The project's own commands, beside Kedro's: `kedro choices`, `kedro compare`, `kedro sweep`."""

from __future__ import annotations

import importlib

import click
from kedro.framework.cli.project import run

__all__ = ["cli", "run"]  # Kedro takes `run` from here for the command `ddpm-kedro`

_COMMANDS = ("choices", "compare", "sweep")  # each is a function in the module of its name


class _Commands(click.Group):
    """Finds a command's module when it is wanted, not before."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        return getattr(importlib.import_module(f"ddpm_kedro.commands.{name}"), name)


cli = _Commands(name="ddpm_kedro")
