"""The check asks of a run what that run does: one that only draws has its schedule in a file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from kedro.framework.cli.project import run as kedro_run
from kedro.pipeline import Pipeline, node
from kedro_viz.launchers.cli.run import run as viz

from ddpm_kedro import option_check
from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.hooks.parameter_check import ParameterCheck
from ddpm_kedro.pipelines import sampling, training

CONF = Path(__file__).parents[2] / "conf"


def checked(**given: object) -> ParameterCheck:
    loader = LayeredConfigLoader(
        str(CONF),
        runtime_params=given,
        base_env="base",
        default_run_env="local",
        merge_strategy={"parameters": "soft"},
    )
    check = ParameterCheck()
    check.after_context_created(SimpleNamespace(config_loader=loader))
    return check


def test_a_sampler_is_held_against_the_schedule_of_the_run_that_trains() -> None:
    check = checked(sampler="flow_heun")
    check.before_pipeline_run(sampling.create_pipeline())
    check.before_dataset_loaded()
    check.before_pipeline_run(training.create_pipeline() + sampling.create_pipeline())
    for _ in range(2):  # under ThreadRunner another node may start by then
        with pytest.raises(InputError, match=r"samplers\.flow_heun: FlowHeun follows"):
            check.before_dataset_loaded()


WRONG = {"sampling": {"sampler": {"type": "ddpm_kedro.diffusion.samplers.DDIM"}}}


def test_a_mistake_is_told_before_it_is_known_what_runs() -> None:
    with pytest.raises(InputError, match=r"sampling\.sampler: .*'num_steps'"):
        checked(**WRONG)


def test_a_kedro_run_builds_options_with_its_first_node(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(option_check, "check_options", lambda _: calls.append(1) or (None, None))
    with kedro_run.make_context("kedro run", []):
        check = checked()
        check.before_pipeline_run(sampling.create_pipeline())
        assert not calls
        check.before_node_run()
        check.before_dataset_loaded()
        assert calls == [1]
        checked()  # of another run in the process
    with viz.make_context("kedro viz run", []):
        checked()
    assert calls == [1, 1]


def test_a_kedro_run_refuses_the_shape_at_once_and_options_later() -> None:
    with kedro_run.make_context("kedro run", []):
        with pytest.raises(click.ClickException, match="optimzer"):
            checked(optimzer="sgd")
        check = checked(**WRONG)
        check.before_pipeline_run(sampling.create_pipeline())
        for _ in range(2):
            with pytest.raises(InputError, match=r"sampling\.sampler: .*'num_steps'"):
                check.before_dataset_loaded()


def test_nodes_that_start_at_once_wait_for_one_check(monkeypatch) -> None:
    calls, done, early = [], threading.Event(), []

    def slow(_: object) -> tuple[None, None]:
        calls.append(1)
        time.sleep(0.1)
        done.set()
        return None, None

    monkeypatch.setattr(option_check, "check_options", slow)
    with kedro_run.make_context("kedro run", []):
        check = checked()

    def start() -> None:
        check.before_dataset_loaded()
        early.append(not done.is_set())

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert calls == [1]
    assert early == [False] * 4


def test_a_run_before_any_check_passes() -> None:
    check = ParameterCheck()
    check.before_pipeline_run(Pipeline([node(len, "params:training", "length")]))
    check.before_node_run()


START = """
import json, sys
from kedro.runner import SequentialRunner
class NoWork(SequentialRunner):
    def run(self, pipeline, catalog, *args, **kwargs):
        for name in catalog:
            catalog[name]  # made
        heavy = ("torch", "wandb", "sklearn", "torchvision")
        print("imported:", [name for name in heavy if name in sys.modules])
        return {}
"""


def test_nothing_heavy_is_imported_before_a_node_runs(tmp_path) -> None:
    (tmp_path / "no_work.py").write_text(START)
    root = CONF.parent
    command = [sys.executable, "-m", "kedro", "run", "--env", "smoke", "--runner", "no_work.NoWork"]
    found = subprocess.run(
        [*command, "--params", f"data_root={tmp_path}/data"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{tmp_path}", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "imported: []" in found.stdout
    assert "nothing to do" in found.stdout + found.stderr
    assert not (tmp_path / "data").exists()
