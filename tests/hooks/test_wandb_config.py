"""What may leave the machine, key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddpm_kedro.hooks.wandb_config import scalars, without_paths


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_path", "photos"),
        ("path", None),
        ("data_root", "data"),
        ("cache_dir", "c"),
        ("filepath", "x.png"),
        ("source", "/abs/x"),
        ("source", "relative/x"),
        ("source", "C:\\x"),
        ("source", "~me"),
        ("source", ".."),
        ("source", Path("x")),
        ("secret", 3),
    ],
)
def test_paths_are_left_out_at_any_depth(key, value):
    tree = {"a": {"b": [{key: value, "kept": 1}]}}
    assert without_paths(tree, ["secret"]) == {"a": {"b": [{"kept": 1}]}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "torch.optim.SGD"),
        ("lr", 0.1),
        ("max_minutes", None),
        ("name", "CIFAR10"),
        ("spacing", "."[:0]),
        ("rootless", "x"),
        ("restart", False),
    ],
)
def test_all_else_is_kept(key, value):
    assert without_paths({key: value}) == {key: value}


def test_paths_in_lists_are_left_out_and_the_tree_is_left_alone():
    tree = {"modules": ["mine", "/x/y", "yours"], "n": {"path": "x"}}
    assert without_paths(tree) == {"modules": ["mine", "yours"], "n": {}}
    assert tree == {"modules": ["mine", "/x/y", "yours"], "n": {"path": "x"}}


def test_scalars_drop_curves_paths_and_empty_sections():
    tree = {"a": 1.5, "b": {"c": [1, 2], "d": {"e": True}}, "f": {"g": [1]}, "h": "/x", "i": None}
    assert scalars(tree) == {"a": 1.5, "b": {"d": {"e": True}}}
