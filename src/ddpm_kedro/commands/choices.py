"""`kedro choices`: what can be chosen, what is chosen, and where each value comes from."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.cli.utils import env_option

from ddpm_kedro.commands.choices_page import ChoicesPage
from ddpm_kedro.commands.command import ProjectCommand, params_option
from ddpm_kedro.framework.config_loader import project_loader


@click.command(cls=ProjectCommand)
@click.argument("group", required=False)
@env_option(help="Preset of the run, a folder of conf.")
@params_option("Parameters of the run.")
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
    loader = project_loader(metadata.project_path, env, params)
    loader.checked_parameters()
    page = ChoicesPage(loader["parameters"], loader.parameter_layers)
    lines = page.overview(everything) if group is None else page.group(group)
    click.echo("\n".join(lines))
