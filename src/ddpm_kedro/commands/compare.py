"""`kedro compare RUN...`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.utils import _split_params, env_option
from kedro.runner import SequentialRunner

from ddpm_kedro.commands.command import ProjectCommand
from ddpm_kedro.framework.session import ProjectSession


@click.command(cls=ProjectCommand)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--output", help="Folder for the page; data_root/08_reporting if not given.")
@env_option
@click.option("--params", default="", callback=_split_params, help="As in `kedro run`.")
def compare(
    runs: tuple[str, ...], output: str | None, env: str | None, params: dict[str, Any]
) -> None:
    """Finished runs side by side in one page: scores, parameters, curves, samples, cost.

    A RUN is the folder of a run (its data_root), the name of a sweep's trial, or NAME=folder.
    """
    settings = {**params.get("compare", {}), "runs": [_absolute(run) for run in runs]}
    if output is not None:
        settings["output"] = str(Path(output).absolute())
    parameters = {**params, "compare": settings}
    with ProjectSession.create(env=env, runtime_params=parameters) as session:
        session.run(pipeline_names=["compare"], runner=SequentialRunner())


def _absolute(run: str) -> str:
    """Folders are meant from where the user is; names of trials stay as they are."""
    name, equals, place = run.partition("=")
    if Path(run).is_dir():
        return str(Path(run).absolute())
    return f"{name}={Path(place).absolute()}" if equals and Path(place).is_dir() else run
