"""`kedro sweep` as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ddpm_kedro.cli import cli
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.settings import SweepSettings
from ddpm_kedro.sweeps.sweep import carry_out


@pytest.fixture
def typed(project, monkeypatch):
    """What the command prints and ends with, where it is refused before any trial starts."""
    monkeypatch.setattr("ddpm_kedro.commands.sweep.use_logging_of", lambda _: None)
    metadata = SimpleNamespace(project_path=project)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["sweep", *words], obj=metadata)
        return result.exit_code, result.output

    return run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give the NAME of a sweep in sweep.yml (one of "),
        (["optimisers"], "(did you mean optimizers?)"),
        (["--over", "optimizer"], "--over optimizer: give KEY=VALUE,VALUE"),
        (["--over", "seed=]"], "--over seed=]: not a list of YAML values"),
        (["--over", "seed="], "sweep seed: over.seed: no values"),
        (["optimizers", "--over", "seed=0,x"], "lr=0.003,seed=x: seed=x: input should be a valid"),
        (["optimizers", "--env", "smoek"], "--env smoek: no folder"),
        (["optimizers", "--params", "sed=1"], "sed=1: no such parameter; did you mean seed?"),
        (["optimizers", "--workers", "0"], "sweep optimizers: workers=0: input should be greater"),
        (["optimizers", "--env", "smoke", "--halving", "9"], "has to lie below training.budget_k"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(typed, words, line):
    code, output = typed(*words)
    assert code == 1
    assert output.startswith("Error: ")
    assert line in output
    assert output.count("\n") == 1


def test_an_entry_of_the_file_may_be_wrong_in_any_way(typed, monkeypatch):
    wrong = {"none": None, "list": [1], "over": {"over": None}, "key": {"ower": {}}}
    monkeypatch.setattr("ddpm_kedro.commands.sweep._sweeps", lambda *_: wrong)
    for name in wrong:
        code, output = typed(name, "--over", "seed=1")
        assert code == 1
        assert output.startswith(f"Error: sweep {name}: ")
        assert output.count("\n") == 1


def test_options_add_to_a_sweep_and_win_over_it(typed, monkeypatch):
    plans = []
    monkeypatch.setattr("ddpm_kedro.commands.sweep._carry_out", plans.append)
    monkeypatch.setattr(
        "ddpm_kedro.commands.sweep._sweeps",
        lambda *_: {
            "x": {"over": {"seed": [1]}, "params": {"seed": 1}, "workers": 1, "env": "smoke"}
        },
    )
    words = ["--over", "training.clip_norm=1,null", "--over", "training.clip_norm=[2]"]
    typed("x", *words, "--workers", "2", "--params", "image_size=8")
    (plan,) = plans
    assert plan.settings.over == {"seed": [1], "training.clip_norm": [1, None, [2]]}
    assert (plan.settings.workers, plan.env, plan.params) == (
        2,
        "smoke",
        {"seed": 1, "image_size": 8},
    )
    typed(*words, "--env", "homework", "--folder", "elsewhere")
    assert (plans[1].name, plans[1].env) == ("clip_norm", "homework")
    assert plans[1].folder == Path("elsewhere").absolute()


def test_a_real_trial_and_once_more(project, tmp_path):
    folder = tmp_path / "sweep"
    words = ["--env", "smoke", "--over", "optimizer=sgd", "--folder", str(folder)]
    result = subprocess.run(
        [sys.executable, "-m", "kedro", "sweep", *words, "--params", f"data_root={tmp_path}"],
        cwd=project,
        env={**os.environ, "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1].split()[:2] == ["1", "optimizer=sgd"]
    assert "optimizer=sgd" in (folder / "comparison.html").read_text()
    assert (tmp_path / "03_primary").is_dir(), "what is prepared is not shared"

    settings = SweepSettings.of("x", {"env": "smoke", "over": {"optimizer": ["sgd"]}})
    plan = Plan("x", settings, project, typed={"data_root": str(tmp_path)}, folder=folder)
    before = (folder / "table.csv").read_bytes()
    carry_out(plan, command=["false"])  # what is done takes no process
    assert (folder / "table.csv").read_bytes() == before
    (folder / "optimizer=sgd/07_model_output/samples.npy").unlink()
    assert carry_out(plan, command=["false"])[0].state == "failed"
