"""The origin of a value is where changing it changes what is composed."""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.composition import CHOICE, compose, overlay
from ddpm_kedro.framework.origins import USER_LAYERS, Origin, leaves, origins

PARTS = ("objective", "sampler")
# The last of each is what a name is changed to, and never written otherwise
OPTIONS = {
    "formulation": ("first", "second", "third"),
    "objective": ("eps", "v", "x0"),
    "sampler": ("ddim", "heun", "euler"),
    "optimizer": ("adam", "sgd", "adamw"),
}
GROUPS = [group for group in OPTIONS if group != "formulation"]
BASE: dict[str, Any] = {
    "formulation": "first",
    "optimizer": "adam",
    "seed": 0,
    "root": "data",
    "raw": "${root}/${seed}",
    **{part: f"${{formulations.${{formulation}}.{part}}}" for part in PARTS},
    "formulations": {
        "first": {"objective": "eps", "sampler": "ddim"},
        "second": {"objective": "v", "sampler": "heun"},
        "third": {"objective": "x0", "sampler": "euler"},
    },
    **{
        f"{group}s": {name: {"type": f"my.{name}", "a": 1, "b": [2, 3]} for name in OPTIONS[group]}
        for group in GROUPS
    },
    "training": {
        **{group: f"${{{group}s.${{{group}}}}}" for group in GROUPS},
        "seed": "${seed}",
        "again": "${training.optimizer}",
        "size": 8,
    },
    "sampling": {"sampler": None, "size": 4},
}


def layer(dice: random.Random) -> dict[str, Any]:
    """What somebody may write above base."""
    group = dice.choice(GROUPS)
    name = dice.choice(OPTIONS[group][:2])
    typed = {"type": "my.own", "c": dice.random()}
    written: list[dict[str, Any]] = [
        *[{"formulation": dice.choice(["first", "second"])}] * 3,
        {"formulations": {dice.choice(["first", "second"]): {"sampler": "heun"}}},
        {group: name},
        {group: name},
        {f"{group}s": {name: {"a": dice.random()}}},
        {"training": {group: {"a": dice.random()}}},
        {"training": {group: typed}},
        {"seed": dice.random(), "training": {"size": dice.random()}},
        {"training": {"seed": dice.random()}, "root": "elsewhere"},
        {"sampling": {"sampler": dice.choice(["heun", {"a": dice.random()}, typed, None])}},
        {"sampler": name} if group == "sampler" else {},
    ]
    merged: dict[str, Any] = {}
    for part in dice.sample(written, 4):
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = {**merged[key], **value} if both else value
    return merged


def composed(layers: dict[str, Any]) -> dict[str, Any]:
    below = [layer for name, layer in layers.items() if name not in USER_LAYERS]
    return dict(leaves(compose(below, list(layers.values())[len(below) :])))


def changed(layers: dict[str, Any], name: str, path: str) -> dict[str, Any] | None:
    """The layers with the value at a path of one of them changed; None where there is none."""
    layers = copy.deepcopy(layers)
    *tables, key = path.split(".")
    table = layers[name]
    for each in tables:
        table = table.get(each)
        if not isinstance(table, dict):
            return None
    if key not in table or isinstance(table[key], dict) or "${" in str(table[key]):
        return None
    value = table[key]
    names = next((names for names in OPTIONS.values() if value in names), ())
    if names:
        table[key] = names[0] if value == names[-1] else names[-1]
    else:
        table[key] = "euler" if path == "sampling.sampler" else f"{value}, changed"
    return layers


def is_name(path: str) -> bool:
    return path in ("formulation", "sampling.sampler", *OPTIONS) or path.startswith("formulations.")


def command_line(seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    return {"base": BASE, **{name: layer(dice) for name in ("preset", "local", "--params")}}


@pytest.mark.parametrize("seed", range(7))
def test_an_origin_is_where_a_change_changes_the_value(seed):
    layers = command_line(seed)
    names, tree, found = list(layers), composed(layers), origins(layers)
    assert found.keys() == tree.keys()

    @cache
    def with_change(name: str, path: str) -> dict[str, Any] | None:
        other = changed(layers, name, path)
        return None if other is None else composed(other)

    for path, origin in found.items():
        there = with_change(origin.layer, origin.path)
        assert there is not None, (path, origin)
        assert there.get(path, "gone") != tree[path], (path, origin)
        for lower in names[: names.index(origin.layer)]:
            for written in (path, origin.path):
                if (other := with_change(lower, written)) is not None:
                    assert other[path] == tree[path], (path, origin, lower, written)


@pytest.mark.parametrize("seed", range(6))
def test_who_chose_is_the_last_whose_names_decide(seed):
    layers = command_line(seed)
    names, found = list(layers), origins(layers)
    moved = dict.fromkeys(found, "base")  # the last layer in which another name moves the origin
    for name in names[1:]:
        for path in filter(is_name, dict(leaves(layers[name]))):
            if (other := changed(layers, name, path)) is None:
                continue
            there = origins(other)
            for leaf in found.keys() - {path}:
                if leaf not in there or there[leaf].path != found[leaf].path:
                    moved[leaf] = name
    assert {path: origin.chosen_by for path, origin in found.items()} == moved


CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.name for path in CONF.iterdir() if path.name not in ("base", "local"))
LOCAL = {"optimizers": {"sgd": {"momentum": 0.5}}, "samplers": {"heun": {"num_steps": 5}}}


@cache
def written(name: str) -> dict[str, Any]:
    """A layer of our own configuration."""
    merged: dict[str, Any] = {}
    for path in sorted((CONF / name).rglob("*.yml")):
        if "parameters" in str(path.relative_to(CONF)):
            merged = overlay(merged, yaml.safe_load(path.read_text()), [])
    return merged


def shifted(value: Any, path: str = "") -> Any:
    """A layer with every value changed but texts, which are names, types and interpolations."""
    if isinstance(value, dict):
        return {key: shifted(each, f"{path}.{key}") for key, each in value.items()}
    return value if isinstance(value, str) or path == ".sampling.sampler" else ["not", value]


@pytest.mark.parametrize("number", range(8))  # each preset, and each of up to eight options
def test_the_values_of_our_presets_change_with_the_layer_that_they_come_from(number):
    base, preset = written("base"), PRESETS[number % len(PRESETS)]
    lines = [CHOICE.match(str(line)) for _, line in leaves(base)]
    tables = {line["name"]: line["table"] for line in lines if line}
    typed: dict[str, Any] = {"seed": 3}
    for group in random.Random(number).sample(sorted(tables), 6):
        options = sorted(base[tables[group]])
        typed[group] = options[number % len(options)]
    layers = {"base": base, preset: written(preset), "local": LOCAL, "--params": typed}
    tree, found = composed(layers), origins(layers)
    for name, layer in layers.items():
        other = composed({**layers, name: shifted(layer)})
        changes = {path for path, value in tree.items() if other[path] != value}
        texts = {path for path, value in tree.items() if isinstance(value, str)}
        assert changes == {
            path
            for path, origin in found.items()
            if origin.layer == name and path not in {*texts, "sampling.sampler"}
        }
    assert all(found[key] == Origin("--params", key, "base") for key in typed)


def test_a_wrong_choice_is_refused_as_in_a_run():
    with pytest.raises(InputError, match=r"^optimizer=adm: choose one of .*mean adam\?"):
        origins({"base": BASE, "--params": {"optimizer": "adm"}})


def test_several_layers_in_one_value_and_names_given_anew():
    typed = {"seed": 7, "optimizer": "adam", "training": {"optimizer": {"a": 5}}}
    mine = {"root": "elsewhere", "optimizers": {"adam": {"b": [1]}}}
    found = origins({"base": BASE, "mine": mine, "--params": typed})
    assert found["raw"] == Origin("--params", "seed", "base")
    assert found["optimizer"] == Origin("--params", "optimizer", "base")
    assert found["training.optimizer.a"] == Origin("--params", "training.optimizer.a", "base")
    assert found["training.optimizer.b"] == Origin("mine", "optimizers.adam.b", "--params")
    assert found["training.again.b"] == found["training.optimizer.b"]
