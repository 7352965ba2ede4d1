"""Every preset with every option of every group composes as its YAML says, and binds."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.drawing import USUAL_SAMPLERS
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
    "sampler": ("samplers", "training.sampler"),
}
# Options that go together only: choosing the left one means choosing a formulation too.
COMPANIONS: dict[str, dict[str, str]] = {
    "noise_schedule": {"edm": "edm", "flow": "flow", "zero_terminal_snr": "v_zero_terminal_snr"},
    "objective": {"edm": "edm", "flow": "flow"},
    "loss_weight": {"edm": "edm"},
    "timestep_sampling": {"log_normal": "edm", "logit_normal": "flow"},
    "sampler": {"flow_euler": "flow", "flow_heun": "flow"},
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
    """The parameters of base and preset as they are written."""
    return tuple(read(folder) for folder in (CONF / "base", CONF / preset)[: 2 if preset else 1])


def composed(preset: str, **given: Any) -> dict[str, Any]:
    return compose(layers(preset), [{"image_path": "somewhere", **given}])


FORMULATIONS = yaml.safe_load((CONF / "base/parameters/formulations.yml").read_text())[
    "formulations"
]


def named(preset: str, **given: str) -> dict[str, str]:
    """The choice of each group when a user gives these: by hand, for one preset and one user."""
    written = [read(CONF / "base"), *([read(CONF / preset)] if preset else []), given]
    names: dict[str, str] = {}
    for layer in written:
        names |= FORMULATIONS.get(layer.get("formulation"), {})
        names |= {key: layer[key] for key in GROUPS if key in layer and "$" not in layer[key]}
    return names


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
    given = {group: option}
    if option in COMPANIONS.get(group, {}):
        given["formulation"] = COMPANIONS[group][option]
    tree = composed(preset, **given)
    changed = read(CONF / preset) if preset else {}
    expected = {**BASE[table][option], **changed.get(table, {}).get(option, {})}
    found = at(tree, place)
    assert set(found) == set(expected)
    for key, value in expected.items():
        if not (isinstance(value, str) and "${" in value):
            assert found[key] == value, key
    for other, name in named(preset, **given).items():  # the other choices stay
        other_table, other_place = GROUPS[other]
        assert at(tree, other_place)["type"] == BASE[other_table][name]["type"]
    Parameters.from_tree(tree)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_formulation_is_whole_under_every_preset(preset, formulation):
    tree = composed(preset, formulation=formulation)
    assert {part: tree[part] for part in FORMULATIONS[formulation]} == FORMULATIONS[formulation]
    assert tree["sampling"]["sampler"] is None
    Parameters.from_tree(tree)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "flow_euler", "dpmpp_2s"])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_these_samplers_fit_every_formulation(formulation, sampler):
    Parameters.from_tree(composed("", formulation=formulation, sampler=sampler))


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_a_model_without_a_sampler_is_drawn_with_its_formulation_s(formulation):
    training = composed("", formulation=formulation)["training"]
    schedule, named = build(training["noise_schedule"]), build(training["sampler"])
    usual = build(USUAL_SAMPLERS[schedule.family])
    assert type(usual) is type(named)
    assert usual.levels(schedule) == named.levels(schedule)


def test_a_run_that_only_draws_may_ask_for_a_sampler_of_another_schedule():
    """The schedule that counts is in the model file, which is known when it draws."""
    tree = composed("", sampler="flow_heun")
    parameters = Parameters.from_values(tree)
    with pytest.raises(InputError, match=r"samplers\.flow_heun: FlowHeun follows"):
        parameters.check_samplers()


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
    ({"sampler": "flow_heun"}, "samplers.flow_heun"),
    ({"formulation": "edm", "objective": "v"}, "objectives.v: VPrediction does not scale"),
    ({"formulations": {"edm": {"optimizer": "sgd"}}}, "formulations.edm.optimizer=sgd: no such"),
    ({"formulations": {"new": {"sampler": "ddim"}}}, "formulations.new.noise_schedule: missing"),
    ({"formulations": {"edm": {"samplar": "ddim"}}}, "did you mean sampler?"),
    (
        {"formulation": "edm", "sampler": "ddim", "samplers": {"ddim": {"spacing": "trailing"}}},
        "samplers.ddim: spacing=trailing on EDMSchedule",
    ),
    ({"sampling": {"sampler": "flow_heun"}}, "sampling.sampler: FlowHeun follows"),
    ({"sampling": {"sampler": {"eta": 7}}}, "sampling.sampler: eta"),
    ({"sampling": {"sampler": 5}}, "sampling.sampler=5"),
    (
        {"samplers": {"ddim": {"thresholding": {"type": "ddpm_kedro.diffusion.samplers.DDIM"}}}},
        "sampler.thresholding: ddpm_kedro.diffusion.samplers.DDIM is not a Threshold",
    ),
    ({"samplers": {"ddim": {"type": "torch.nn.Identity"}}}, "torch.nn.Identity is not a Sampler"),
    ({"objectives": {"v": {"type": "torch.nn.Identity"}}}, "torch.nn.Identity is not a Objective"),
    (
        {"training": {"conditional": True, "label_dropout": 0}, "sampling": {"guidance": 2.0}},
        "sampling.guidance=2.0: compares with images drawn without a label",
    ),
    ({"loss_weights": {"p2": {"gamma": float("inf")}}, "loss_weight": "p2"}, "gamma=inf"),
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


def test_nested_options_and_infinity_are_taken_where_they_belong():
    dynamic = {"type": "ddpm_kedro.diffusion.samplers.thresholding.DynamicThreshold"}
    Parameters.from_tree(composed("", samplers={"ddim": {"thresholding": dynamic}}))
    gamma = {"loss_weights": {"min_snr": {"gamma": float("inf")}}}
    Parameters.from_tree(composed("", loss_weight="min_snr", **gamma))


@pytest.mark.parametrize(
    "given",
    [
        {"training": {"conditional": True, "label_dropout": 0}, "sampling": {"guidance": 1}},
        {"training": {"conditional": True, "label_dropout": 0}},
        {"training": {"conditional": True}, "sampling": {"guidance": 2.0}},
        {"training": {"label_dropout": 0}},
    ],
)
def test_without_label_dropout_only_guidance_is_refused(given):
    Parameters.from_tree(composed("", **given))


COUNTS = (
    "batch_size",
    "keep_checkpoints",
    "held_out_images",
    "max_skipped_updates",
    "num_previews",
    "micro_batch_size",
)
AMOUNTS = (
    "budget_kimg",
    "log_every_kimg",
    "checkpoint_every_kimg",
    "preview_every_kimg",
    "max_minutes",
    "clip_norm",
)
SHARES = ("label_dropout", "held_out_fraction")
ENDLESS = [float("inf"), float("nan")]
RANGES: dict[str, list[Any]] = {
    **{key: [None, True, -1, 0, 1, 1.5, 7, "many"] for key in COUNTS},
    **{key: [None, True, -1.0, 0, 1e-9, 1, 2.5, "many", *ENDLESS] for key in AMOUNTS},
    **{key: [None, True, -0.1, 0, 0.5, 1, 1.5, "many", *ENDLESS] for key in SHARES},
    "seed": [None, True, -1, 0, 1.5, 2**63 - 1, 2**63],
    "precision": [None, "auto", "fp32", "bf16", "fp16", "fp8", 16],
    "compile": [None, "auto", "on", "off", "maybe"],
    "ema.halflives_kimg": [[], [0], [0.5], [1, 1], [1, 2], [-1], [True], [float("inf")], None],
    "ema.warmup_ratio": [None, True, -1, 0, 0.05, 1, float("nan")],
    "distributed.workers": [None, True, 0, 1, 2, 1.5],
    "distributed.nodes": [None, 0, 1, 2],
    "distributed.wait_minutes": [None, True, 0, 0.5, float("inf")],
    "distributed.max_restarts": [None, True, -1, 0, 3, 0.5],
    "distributed.rendezvous": [None, "host:1", "host"],
}  # fmt: skip


@pytest.mark.parametrize(("path", "values"), RANGES.items(), ids=RANGES)
def test_parameters_and_engine_take_and_refuse_the_same_values(path, values):
    base = Parameters.from_tree(composed("")).training.model_dump()
    *sections, key = path.split(".")
    for value in values:
        given = copy.deepcopy(base)
        section = given[sections[0]] if sections else given
        section[key] = value

        def takes(check: Callable[[dict[str, Any]], object], given: dict[str, Any] = given) -> bool:
            try:
                check(given)
            except (InputError, ValidationError):
                return False
            return True

        by_parameters = takes(
            lambda given: TrainingSettings(**TrainingParameters(**given).model_dump())
        )
        assert by_parameters == takes(lambda given: TrainingSettings(**given)), f"{path}={value}"
