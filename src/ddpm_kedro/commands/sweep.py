"""`kedro sweep`: many trials of one idea, each an ordinary `kedro run`, and which is best."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.utils import env_option
from kedro.framework.project import settings as project_settings
from omegaconf import OmegaConf

from ddpm_kedro.commands.command import ProjectCommand, params_option
from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.framework.composition import choices
from ddpm_kedro.framework.config_loader import project_loader
from ddpm_kedro.framework.run_log import lines_above_bars, use_logging_of
from ddpm_kedro.framework.session import signals_raise
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.settings import SweepSettings

signals_stop = partial(signals_raise, Stopped, signal.SIGINT, signal.SIGTERM)


@click.command(cls=ProjectCommand)
@click.argument("name", required=False)
@env_option(help="Preset of all trials; wins over the sweep's own `env`.")
@params_option("Parameters of all trials.")
@click.option(
    "--over",
    multiple=True,
    metavar="KEY=VALUE,VALUE",
    help="A parameter to vary; may be given again, and makes a grid.",
)
@click.option("--workers", type=int, help="Trials at a time; else one for each GPU.")
@click.option("--folder", type=Path, help="Where; else DATA_ROOT/sweeps/NAME.")
@click.option(
    "--halving",
    type=float,
    metavar="KIMG",
    help="Train all for so long, the better half twice as long, and so on.",
)
@click.pass_obj
def sweep(
    metadata: Any,
    name: str | None,
    env: str | None,
    params: dict[str, Any],
    over: tuple[str, ...],
    folder: Path | None,
    **given: Any,
) -> None:
    """Run the trials of the sweep NAME of conf/*/sweep.yml, or those that --over makes.

    The same command goes on with a sweep that was stopped or killed, and tries again what failed.
    """
    project = Path(metadata.project_path)
    use_logging_of(project / project_settings.CONF_SOURCE)
    sweeps = _sweeps(project, env)
    grid: dict[str, list[Any]] = {}
    for key, values in map(_values, over):
        grid.setdefault(key, []).extend(values)
    if name is None and not grid:
        known = f"one of {', '.join(sorted(sweeps))}" if sweeps else "none there is"
        raise InputError(f"give the NAME of a sweep in sweep.yml ({known}), or --over")
    if name is not None and name not in sweeps:
        raise InputError(f"sweep {name}: {choices(name, sorted(sweeps))}")
    tree: dict[str, Any] = {}
    if name is not None:
        SweepSettings.of(name, tree := sweeps[name])  # right by itself, before more is said
    tree = {**tree, "over": {**tree.get("over", {}), **grid}}
    tree |= {key: value for key, value in {**given, "env": env}.items() if value is not None}
    name = name or ",".join(key.split(".")[-1] for key in grid)
    settings, place = SweepSettings.of(name, tree), folder and folder.absolute()
    with signals_stop(), lines_above_bars():
        _carry_out(Plan(name, settings, project, typed=params, folder=place))


def _carry_out(plan: Plan) -> None:
    # Not at the top: torch is for plans that are right
    from ddpm_kedro.sweeps import sweep, table
    from ddpm_kedro.sweeps.search import command_line

    try:
        rows = sweep.carry_out(plan)
    except Stopped as stop:
        click.echo("Stopped: what ran was saved; the same command goes on from there", err=True)
        sys.exit(stop.exit_code)
    click.echo(table.as_text(rows, plan.settings.score))
    sweep.write_page(plan, rows)
    click.echo(f"table and comparison: {plan.folder}")
    if plan.settings.search and rows[0].rank == 1:
        click.echo(f"the best once more: {command_line(plan, rows[0])}")
    if any(row.state == "failed" for row in rows):
        sys.exit(1)


def _sweeps(project: Path, env: str | None) -> dict[str, Any]:
    """What the layers of sweep.yml make together."""
    try:
        return project_loader(project, env)["sweep"]
    except MissingConfigException:
        return {}


def _values(typed: str) -> tuple[str, list[Any]]:
    """`lr=0.1,[1,2]` as the key and its values, read as YAML."""
    key, equals, values = typed.partition("=")
    if not key or not equals:
        raise InputError(f"--over {typed}: give KEY=VALUE,VALUE")
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"values=[{values}]"]))
    except Exception:
        raise InputError(f"--over {typed}: not a list of YAML values") from None
    return key.strip(), read["values"]
