"""Every preset with every option of every group composes as its YAML says, and binds."""

from __future__ import annotations

import dataclasses
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader, compose
from ddpm_kedro.parameters import (
    DistributedParameters,
    EmaParameters,
    Parameters,
    TrainingParameters,
)
from ddpm_kedro.training.settings import DistributedSettings, EMASettings, TrainingSettings

CONF = Path(__file__).parents[1] / "conf"
PRESETS = ["", "smoke", "homework", "cifar10", "fashion_mnist", "image_folder", "conditional"]
# group: (its table, where the chosen entry goes)
GROUPS = {
    "dataset": ("datasets", "preparation.source"),
    "augmentation": ("augmentations", "training.augmentation"),
    "backbone": ("backbones", "training.backbone"),
    "noise_schedule": ("noise_schedules", "training.noise_schedule"),
    "objective": ("objectives", "training.objective"),
    "loss_weight": ("loss_weights", "training.loss_weight"),
    "timestep_sampling": ("timestep_samplings", "training.timesteps"),
    "optimizer": ("optimizers", "training.optimizer"),
    "lr_schedule": ("lr_schedules", "training.lr_schedule"),
    "sampler": ("samplers", "sampling.sampler"),
}
# Options that go together only: choosing the left one means choosing the others too.
COMPANIONS: dict[str, dict[str, dict[str, str]]] = {
    "noise_schedule": {
        "edm": {"objective": "edm", "timestep_sampling": "log_normal", "sampler": "heun"},
        "flow": {"objective": "flow", "sampler": "flow_euler"},
        "zero_terminal_snr": {"objective": "v", "sampler": "ddim"},
    },
    "objective": {
        "edm": {"noise_schedule": "edm", "timestep_sampling": "log_normal", "sampler": "heun"},
        "flow": {"noise_schedule": "flow", "sampler": "flow_euler"},
    },
    "loss_weight": {
        "edm": {"noise_schedule": "edm", "objective": "edm", "sampler": "heun"},
    },
    "timestep_sampling": {
        "log_normal": {"noise_schedule": "edm", "objective": "edm", "sampler": "heun"},
    },
    "sampler": {
        "flow_euler": {"noise_schedule": "flow", "objective": "flow"},
        "flow_heun": {"noise_schedule": "flow", "objective": "flow"},
    },
}


def read(folder: Path) -> dict[str, Any]:
    """The parameters of one layer, by a reader that knows nothing of ours."""
    merged: dict[str, Any] = {}
    for path in sorted(folder.rglob("parameters*.yml")) + sorted(folder.glob("parameters/*.yml")):
        for key, value in (yaml.safe_load(path.read_text()) or {}).items():
            if isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged[key] = value
    return merged


@cache
def layers(preset: str) -> tuple[dict[str, Any], ...]:
    """The parameter files of base and preset as they are written."""
    folders = [CONF / "base", *([CONF / preset] if preset else [])]
    return tuple(
        yaml.safe_load(path.read_text()) or {}
        for folder in folders
        for path in sorted({*folder.glob("parameters*"), *folder.glob("parameters/*")})
        if path.is_file()
    )


def composed(preset: str, **given: Any) -> dict[str, Any]:
    return compose([*layers(preset), {"image_path": "somewhere", **given}])


def at(tree: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


BASE = read(CONF / "base")
CASES = [
    (preset, group, option)
    for preset in PRESETS
    for group, (table, _) in GROUPS.items()
    for option in BASE[table]
]


def test_every_preset_is_tested():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"base", "local"}
    assert folders == set(PRESETS) - {""}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_loader_composes_the_same(preset, tmp_path):
    for name in ("base", preset):
        if name:
            shutil.copytree(CONF / name, tmp_path / name)
    (tmp_path / "local").mkdir(exist_ok=True)
    loader = LayeredConfigLoader(
        str(tmp_path),
        env=preset or None,
        runtime_params={"image_path": "somewhere"},
        base_env="base",
        default_run_env="local",
        merge_strategy={"parameters": "soft"},
    )
    assert loader["parameters"] == composed(preset)


@pytest.mark.parametrize(("preset", "group", "option"), CASES)
def test_a_choice_composes_as_its_layers_say(preset, group, option):
    table, place = GROUPS[group]
    companions = COMPANIONS.get(group, {}).get(option, {})
    tree = composed(preset, **{group: option, **companions})
    changed = read(CONF / preset) if preset else {}
    expected = {**BASE[table][option], **changed.get(table, {}).get(option, {})}
    found = at(tree, place)
    assert set(found) == set(expected)
    for key, value in expected.items():
        if not (isinstance(value, str) and "${" in value):
            assert found[key] == value, key
    for other, (other_table, other_place) in GROUPS.items():  # the other choices stay
        if other != group:
            name = companions.get(other) or changed.get(other) or BASE[other]
            assert at(tree, other_place)["type"] == BASE[other_table][name]["type"]
    Parameters.from_tree(tree)


def test_the_homework_is_what_the_course_says():
    training = composed("homework")["training"]
    assert training["optimizer"]["type"] == "torch.optim.Adam"
    assert training["optimizer"]["lr"] == 1e-5
    assert training["batch_size"] == 128
    assert training["budget_kimg"] == 100 * 50
    assert training["backbone"]["hidden_size"] == 128
    schedule = training["noise_schedule"]
    assert (schedule["beta_start"], schedule["beta_end"], schedule["num_timesteps"]) == (
        1e-4,
        0.02,
        1000,
    )
    assert training["objective"]["type"].endswith("EpsilonPrediction")
    assert training["lr_schedule"]["type"].endswith("Constant")
    sgd = composed("homework", optimizer="sgd")["training"]["optimizer"]
    assert sgd == {"type": "torch.optim.SGD", "lr": 1e-4, "momentum": 0.9}


REFUSED = [
    ({"optimizer": "rmsprop"}, "optimizer=rmsprop: choose one of adam"),
    ({"optimzer": "sgd"}, "optimzer=sgd: no such parameter; did you mean optimizer?"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"seed": -1}, "seed=-1"),
    ({"device": "tpu"}, "device=tpu"),
    ({"training": {"optimizer": {"lr": float("nan")}}}, "lr=nan"),
    ({"training": {"optimizer": {"lr": -1.0}}}, "Invalid learning rate: -1.0"),
    ({"training": {"optimizer": {"rate": 1.0}}}, "rate"),
    ({"training": {"optimizer": {"type": "torch.optim.Nadaam"}}}, "Nadaam"),
    ({"training": {"batch_size": 0}}, "training.batch_size=0: input should be greater"),
    ({"training": {"batch_size": "many"}}, "training.batch_size=many: input should be a valid int"),
    ({"training": {"batchsize": 4}}, "did you mean batch_size?"),
    ({"training": {"budget_kimg": float("inf")}}, "training.budget_kimg=inf"),
    ({"training": {"precision": "fp8"}}, "training.precision=fp8"),
    ({"training": {"distributed": {"workers": 0}}}, "training.distributed.workers=0"),
    ({"training": {"batch_size": 2, "distributed": {"workers": 4}}}, "one image"),
    ({"sampling": {"num_samples": -1}}, "sampling.num_samples=-1"),
    ({"sampling": {"num_steps": 2000}}, "2000"),
    ({"sampling": {"guidance": 3.0}}, "sampling.guidance=3.0: only a conditional model"),
    ({"sampling": {"label": 7}}, "sampling.label=7: only a conditional model"),
    ({"evaluation": {"features": {"num_components": 0}}}, "evaluation.features: num_components=0"),
    ({"training": 7}, "training=7"),
    ({"noise_schedules": {"cosine": {"steps": 3}}}, "noise_schedules.cosine"),
    ({"noise_schedule": "zero_terminal_snr", "objective": "eps"}, "objectives.eps"),
    ({"sampler": "flow_euler"}, "samplers.flow_euler"),
    (
        {"lr_schedule": "constant", "lr_schedules": {"constant": {"type": "torch.nn.Linear"}}},
        "not a learning-rate schedule",
    ),
    ({"device": "cuda:99"}, "device=cuda:99"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_wrong_input_is_one_line_that_names_it(given, words):
    with pytest.raises(InputError) as refused:
        Parameters.from_tree(composed("", **given))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (TrainingParameters, TrainingSettings),
        (EmaParameters, EMASettings),
        (DistributedParameters, DistributedSettings),
    ],
)
def test_the_engine_takes_what_the_parameters_say(section, settings):
    assert set(section.model_fields) == {field.name for field in dataclasses.fields(settings)}
