"""The origin of a value is where changing it changes what is composed."""

from __future__ import annotations

import copy
import random
from functools import cache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.composition import compose
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
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
    "raw": "${root}/raw",
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
        {"formulation": dice.choice(["first", "second"])},
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
    for part in dice.sample(written, 3):
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
    table[key] = names[-1] if names else "euler" if path == "sampling.sampler" else f"{value}, no"
    return layers


def is_name(path: str) -> bool:
    return path in ("formulation", "sampling.sampler", *OPTIONS) or path.startswith("formulations.")


def command_line(seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    return {"base": BASE, **{name: layer(dice) for name in ("preset", "local", "--params")}}


@pytest.mark.parametrize("seed", range(12))
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


@pytest.mark.parametrize("seed", range(12))
def test_who_chose_is_the_last_whose_names_decide(seed):
    layers = command_line(seed)
    names, found = list(layers), origins(layers)
    moved = dict.fromkeys(found, "base")  # the last layer in which another name moves the origin
    for name in names[1:]:
        for path in filter(is_name, dict(leaves(layers[name]))):
            other = changed(layers, name, path)
            for leaf, origin in origins(other).items() if other else ():
                if leaf in found and leaf != path and origin.path != found[leaf].path:
                    moved[leaf] = name
    assert {path: origin.chosen_by for path, origin in found.items()} == moved
