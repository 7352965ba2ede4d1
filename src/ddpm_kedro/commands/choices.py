"""`kedro choices`: what can be chosen, what is chosen, and where each value comes from."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.cli.utils import _split_params, env_option
from kedro.framework.project import settings

from ddpm_kedro.commands.choices_page import ChoicesPage
from ddpm_kedro.commands.command import ProjectCommand
from ddpm_kedro.parameters import Parameters


@click.command(cls=ProjectCommand)
@click.argument("group", required=False)
@env_option
@click.option("--params", default="", callback=_split_params, help="As for `kedro run`.")
@click.option("--all", "everything", is_flag=True, help="Also the values that base gives.")
@click.pass_obj
def choices(
    metadata: Any, group: str | None, env: str | None, params: dict[str, Any], everything: bool
) -> None:
    """What can be chosen, what is chosen, and where each value comes from.

    With the --env and --params of a run, it tells what that run would use. GROUP, such as
    optimizer, shows the options of that choice in full.
    """
    loader = settings.CONFIG_LOADER_CLASS(
        str(metadata.project_path / settings.CONF_SOURCE),
        env=env,
        runtime_params=params,
        **settings.CONFIG_LOADER_ARGS,
    )
    tree = loader["parameters"]
    Parameters.from_tree(tree)
    page = ChoicesPage(tree, loader.parameter_layers)
    lines = page.overview(everything) if group is None else page.group(group)
    click.echo("\n".join(lines))
