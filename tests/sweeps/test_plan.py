"""Trials are composed and checked before the first starts; each has a readable folder."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml
from kedro.framework.cli.utils import _split_params

from ddpm_kedro.errors import InputError
from ddpm_kedro.sweeps.plan import Plan, leaves, name_of, nested
from ddpm_kedro.sweeps.search import Search
from ddpm_kedro.sweeps.settings import SweepSettings

LR = "training.optimizer.lr"


def test_a_grid_is_every_combination_under_each_listed_trial(plan):
    trials = plan(
        trials=[{"optimizer": "adam"}, {"optimizer": "sgd"}],
        over={LR: [0.1, 0.01], "seed": [0, 1]},
    ).trials()
    assert len({trial.sameness for trial in trials}) == 8
    assert [trial.name for trial in trials][:3] == [
        "optimizer=adam,lr=0.1,seed=0",
        "optimizer=adam,lr=0.1,seed=1",
        "optimizer=adam,lr=0.01,seed=0",
    ]
    last = trials[-1].parameters
    assert (last.optimizer, last.seed) == ("sgd", 1)
    assert last.training.optimizer == {"type": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9}


def test_a_trial_has_its_own_results_and_shares_what_is_prepared(plan, project, folder):
    trial = plan(
        over={"optimizer": ["sgd"]}, params={"seed": 5, "training.batch_size": 16}
    ).trials()[0]
    own = trial.parameters
    assert own.data_root == str(folder / "optimizer=sgd")
    assert own.prepared_root == str(project / "data/03_primary")
    assert own.raw_root == str(project / "data/01_raw")
    assert (own.seed, own.training.batch_size) == (5, 16)
    assert own.training.budget_kimg == 0.64  # the preset's


def test_what_is_typed_lies_over_the_sweeps_own_parameters(project, tmp_path):
    settings = SweepSettings.of("x", {"over": {"optimizer": ["sgd"]}, "params": {"seed": 5}})
    typed = {"seed": 6, "data_root": str(tmp_path)}
    made = Plan("x", settings, project, typed=typed)
    assert made.folder == tmp_path / "sweeps" / "x"
    assert made.trials()[0].parameters.seed == 6
    assert made.trials()[0].parameters.prepared_root == str(tmp_path / "03_primary")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({}, "sweep mine: nothing to try; give over"),
        ({"over": {"optimizer": []}}, "sweep mine: over.optimizer: no values"),
        ({"over": {"optimizer": "adam"}}, "sweep mine: over.optimizer=adam: input should be a"),
        ({"ower": {}}, "sweep mine: ower={}: no such parameter; did you mean over?"),
        ({"over": {"seed": [1]}, "workers": 0}, "sweep mine: workers=0: input should be greater"),
        (
            {"over": {"optimizer": ["adam", "rmsprop"]}},
            "trial optimizer=rmsprop: optimizer=rmsprop: choose one of adam, adamw, sgd",
        ),
        ({"over": {LR: [0.1, -1]}}, "trial lr=-1: optimizers.adam: torch.optim.Adam: Inva"),
        ({"over": {"training.batch_size": [0]}}, "trial batch_size=0: training.batch_size=0: inp"),
        ({"over": {"trainin.x": [0]}}, "trial x=0: trainin={'x': 0}: no such parameter; did you"),
        ({"trials": [{"formulation": "edm", "sampler": "ancestral"}]}, "samplers.ancestral"),
        ({"over": {"data_root": ["a"]}}, "trial data_root=a: data_root: is the sweep's to"),
        ({"over": {"seed": [1]}, "params": {"seed": 2}}, "trial seed=1: seed: is given for all"),
        ({"trials": [{"image_path": None}, {"image_path": "null"}]}, "come to the same"),
        ({"trials": [{}, {"optimizer": "adam"}]}, "unchanged and optimizer=adam come to the same"),
        ({"over": {"optimizer": ["adam"], "optimizers.sgd.lr": [0.1, 0.2]}}, "come to the same"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_made(plan, tmp_path, tree, words):
    with pytest.raises(InputError) as caught:
        plan(**tree).trials()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_folder_is_refused():
    for name in ("../x", "a/b", ".x", ""):
        with pytest.raises(InputError, match="it names a folder"):
            SweepSettings.of(name, {})


@pytest.mark.parametrize(
    ("varied", "name"),
    [
        ({}, "unchanged"),
        ({"a.lr": 1e-5, "flag": True, "none": None}, "lr=1e-05,flag=true,none=null"),
        ({"a.x": 1, "b.x": 2}, "a.x=1,b.x=2"),
        ({"x": 0.1 + 0.2}, "x=0.30000000000000004"),
    ],
)
def test_a_name_says_what_differs(varied, name):
    assert name_of(varied, varied) == name


def test_names_are_safe_short_and_never_the_same_for_different_values():
    values = ["a/b", "a b", "a-b", [1, 2], {"x": [1]}, "y" * 300, "y" * 301, "é"]
    names = {name_of({"x": value}, ["x"]) for value in values}
    assert len(names) == len(values)
    assert all(len(name) <= 80 and not set(name) & set("/ []{}:\"'*?é") for name in names)


def test_keys_in_different_trials_are_told_apart():
    assert name_of({"a.lr": 1}, ["a.lr", "b.lr"]) == "a.lr=1"


def test_nested_and_leaves_are_each_others_inverse():
    tree = {"a": {"b": 1, "c": {"d": [1]}}, "e": {}}
    assert nested(leaves(tree)) == tree
    assert nested({"a.b": {"c.d": 1}, "a": {"b": {"e": 2}}}) == {
        "a": {"b": {"c": {"d": 1}, "e": 2}}
    }


def test_the_projects_own_sweeps_are_right(project, tmp_path):
    for name, tree in yaml.safe_load((project / "conf/base/sweep.yml").read_text()).items():
        plan = Plan(name, SweepSettings.of(name, tree), project)
        assert len(Search(plan).corners if plan.settings.search else plan.trials()) > 1


def test_the_wandb_sweep_hands_its_parameters_to_kedro_run(project, tmp_path):
    """As W&B's agent does: the last word of the command becomes a word for each parameter."""
    *command, macro = yaml.safe_load((project / "docs/wandb_sweep.yml").read_text())["command"]
    assert macro == "${args_no_hyphens}"
    kedro = tmp_path / "kedro"
    kedro.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    kedro.chmod(0o755)
    result = subprocess.run(
        [*command, "optimizer=adamw", "training.optimizer.lr=0.001"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "r1"},
        capture_output=True,
        text=True,
        check=True,
    )
    run, option, params = result.stdout.splitlines()
    assert (run, option) == ("run", "--params")
    assert _split_params(None, None, params) == {
        "optimizer": "adamw",
        "training": {"optimizer": {"lr": 0.001}},
        "data_root": "data/sweeps/wandb/r1",
        "prepared_root": "data/03_primary",
        "raw_root": "data/01_raw",
    }
