"""The last lines of a run: how good the samples are, where to look, what to type next."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines

from ddpm_kedro.hooks.stage_lines import shown_path

LOGGER = logging.getLogger(__name__)

# Datasets, and what they are called
_LOOKED_AT = {"sample_grid": "picture", "report": "report", "comparison": "page"}
_OPTIONS = ("config", "conf_source", "env", "params")  # what the next command needs too
_VIZ_OPTIONS = ("conf_source", "env", "params")


class RunSummary:
    """Logs the score, the picture and the report where this run made them, and the next command.

    Where no node ran, because nothing had changed, they are those that lie there."""

    def __init__(self) -> None:
        self._saved: set[str] = set()
        self._score, self._has_worked = "", False

    @hook_impl
    def before_pipeline_run(self) -> None:
        self._saved, self._score = set(), ""
        self._has_worked = False

    @hook_impl
    def before_node_run(self) -> None:
        self._has_worked = True

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        self._saved.add(dataset_name)
        if dataset_name == "metrics" and isinstance(data, Mapping):
            self._score = _score(data)

    @hook_impl(trylast=True)
    def after_pipeline_run(self, pipeline: Any, catalog: Any) -> None:
        if not self._has_worked:
            LOGGER.info("nothing to do: all results are there")
            there = [*_LOOKED_AT, "metrics"]
            self._saved = {name for name in there if name in catalog and catalog.exists(name)}
            self._saved &= pipeline.all_outputs()
            self._score = _score(catalog.load("metrics")) if "metrics" in self._saved else ""
        if self._score:
            LOGGER.info("score: %s", self._score)
        for name, title in _LOOKED_AT.items():
            if name in self._saved:
                LOGGER.info("%s: %s", title, shown_path(catalog, name))
        context = click.get_current_context(silent=True)
        is_run = context is not None and "pipelines" in context.params  # not another command
        if is_run and (command := next_command(context, pipeline)):
            LOGGER.info("next: %s", command)


def _score(metrics: Mapping[str, Any]) -> str:
    """MIND in a line; empty where it could not be measured."""
    ratio, z = metrics.get("mind_ratio"), metrics.get("mind_z")
    if ratio is None or z is None:
        return ""
    return f"MIND {ratio:.2f} times that of real images, {z:.1f} deviations off (up to 2 is chance)"


def next_command(context: click.Context, pipeline: Any) -> str:
    """What to type after a run of `pipeline`: the stages that take up what it made, and what was
    typed about configuration in the command of `context`. Empty after a whole run out of a
    `--config` file, which somebody has put into words already."""
    whole = pipelines["__default__"]
    made = pipeline.all_outputs() & whole.all_inputs()
    ahead = set(whole.from_inputs(*made).nodes) - set(pipeline.nodes) if made else set()
    parts = {name: stage for name, stage in pipelines.items() if name != "__default__"}
    if stages := [name for name, stage in parts.items() if ahead & set(stage.nodes)]:
        return f"`{context.command_path} --pipelines {','.join(stages)}{_typed(context, _OPTIONS)}`"
    if context.params.get("config"):
        return ""
    return (
        f"`kedro viz run{_typed(context, _VIZ_OPTIONS)}` shows the chain; "
        f"`{context.command_path} --env image_folder --params image_path=FOLDER` takes your images"
    )


def _typed(context: click.Context, options: Iterable[str]) -> str:
    """Those of `options` that stood on the command line, with a space before each word."""
    words = []
    for name in options:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            if isinstance(value, Mapping):
                value = ",".join(_assignments(value))
            if not value:
                continue
            words += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    return "".join(f" {word}" for word in words)


def _assignments(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{path}{key}.")
        elif key not in ("force", "restart"):  # which were for this run
            yield f"{path}{key}={'null' if value is None else value}"
