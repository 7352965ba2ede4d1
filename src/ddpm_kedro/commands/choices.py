"""`kedro choices`: what can be chosen, what is chosen, and where each value comes from."""

from __future__ import annotations

import os
from typing import Any

import click
from kedro.framework.cli.utils import _split_params, env_option
from kedro.framework.project import settings

from ddpm_kedro.commands.choices_page import ChoicesPage
from ddpm_kedro.commands.command import ProjectCommand
from ddpm_kedro.errors import InputError
from ddpm_kedro.parameters import Parameters


@click.command(cls=ProjectCommand)
@click.argument("group", required=False)
@env_option(help="Preset of the run, a folder of conf.")
@click.option("--params", default="", callback=_split_params, help="Parameters of the run.")
@click.option(
    "--all", "everything", is_flag=True, help="Also the values that base gives; without GROUP."
)
@click.pass_obj
def choices(
    metadata: Any, group: str | None, env: str | None, params: dict[str, Any], everything: bool
) -> None:
    """What can be chosen, and where each value of a run comes from.

    With the --env and --params of a run, it tells what that run would use. GROUP, such as
    optimizer, shows the options of that choice in full.
    """
    loader = settings.CONFIG_LOADER_CLASS(
        str(metadata.project_path / settings.CONF_SOURCE),
        env=env or os.environ.get("KEDRO_ENV"),
        runtime_params=params,
        **settings.CONFIG_LOADER_ARGS,
    )
    tree = loader["parameters"]
    try:
        Parameters.from_tree(tree)
    except InputError as error:
        raise loader.placed(error) from error
    page = ChoicesPage(tree, loader.parameter_layers)
    lines = page.overview(everything) if group is None else page.group(group)
    click.echo("\n".join(lines))
