"""Whatever is recorded has a form in JSON, and equal values have the same one."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.plain import canonical, canonical_json, finite_or_name, plain


def test_every_kind_becomes_one_of_json():
    value = {
        1: (1.0, np.float64(0.5), torch.tensor(True)),
        "array": np.arange(4).reshape(2, 2),
        "path": Path("a/b"),
        "count": IntEnum("Count", "one").one,
        "range": range(2),
        "other": {2},
        "none": None,
    }
    assert plain(value) == {
        "1": [1.0, 0.5, True],
        "array": [[0, 1], [2, 3]],
        "path": "a/b",
        "count": 1,
        "range": [0, 1],
        "other": "{2}",
        "none": None,
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_what_json_cannot_say_is_nothing_or_its_name():
    endless = [float("inf"), torch.tensor(float("nan")), 1.0]
    assert plain(endless) == [None, None, 1.0]
    assert plain(endless, real=finite_or_name) == ["inf", "nan", 1.0]
    assert isinstance(plain(1.0), float)


def test_its_argument_is_left_alone():
    value = {"a": (1.0, {"b": Path("x")})}
    assert canonical(value) == {"a": [1, {"b": "x"}]}
    assert value == {"a": (1.0, {"b": Path("x")})}


def test_equal_values_have_one_text():
    assert canonical_json({"b": 1.0, "a": np.int64(2)}) == '{"a":2,"b":1}'
    assert canonical_json({"a": 2, "b": 1}) == '{"a":2,"b":1}'
    assert canonical_json([0.5, -float("inf"), True]) == '[0.5,"-inf",true]'


def test_what_has_no_form_is_refused_by_its_dotted_key():
    with pytest.raises(InputError, match=r"a\.1\.b: object cannot be recorded"):
        canonical({"a": [0, {"b": object()}]})
    with pytest.raises(InputError, match="the value: bytes cannot be recorded"):
        canonical(b"x")
