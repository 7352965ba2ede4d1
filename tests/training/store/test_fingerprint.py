"""The fingerprint is the identity of a training: stable where nothing is learned differently."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.plain import canonical_json
from ddpm_kedro.training.store.fingerprint import differences, fingerprint

SHAPING = {
    "data": "5f3a",
    "optimizer": {"type": "torch.optim.Adam", "lr": 0.002, "betas": [0.9, 0.99]},
    "clip_norm": None,
    "conditional": False,
    "seed": 0,
}


def changed(**values):
    return {**SHAPING, **values}


def optimizer(**values):
    return changed(optimizer={**SHAPING["optimizer"], **values})


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(SHAPING.items())),
        optimizer(betas=(0.9, 0.99)),
        changed(seed=0.0),
        changed(seed=np.int64(0)),
        changed(seed=torch.tensor(0)),
        optimizer(lr=np.float64(0.002)),
    ],
)
def test_spelling_does_not_change_it(same):
    assert fingerprint(same) == fingerprint(SHAPING)


@pytest.mark.parametrize(
    "other",
    [
        changed(seed=1),
        changed(seed=False),  # False is not 0: one is a choice, the other a number
        changed(seed="0"),
        changed(seed=None),
        changed(data="5f3b"),
        changed(conditional=True),
        optimizer(lr=0.0020000000000000005),
        optimizer(betas=[0.99, 0.9]),
        optimizer(weight_decay=0),
        {key: value for key, value in SHAPING.items() if key != "clip_norm"},
        {**SHAPING, "clip_norm": float("inf")},
    ],
)
def test_every_value_changes_it(other):
    assert fingerprint(other) != fingerprint(SHAPING)


def test_it_is_a_fixed_number_of_hex_digits_and_the_same_in_every_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from ddpm_kedro.training.store.fingerprint import fingerprint;"
        f"print(fingerprint({SHAPING!r}))"
    )
    source = Path(__file__).parents[3] / "src"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, str(source)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert printed == [fingerprint(SHAPING)] * 2
    assert len(printed[0]) == 16
    assert set(printed[0]) <= set("0123456789abcdef")


def test_golden_value():
    """Changing the canonical form would orphan every training on disk: do it knowingly."""
    text = '{"clip_norm":null,"gamma":"inf","lr":0.1,"path":"a/b","steps":[1,2],"warm":true}'
    value = {
        "lr": 0.1,
        "gamma": float("inf"),
        "steps": (1.0, 2),
        "warm": True,
        "clip_norm": None,
        "path": Path("a/b"),
    }
    assert canonical_json(value) == text
    assert fingerprint(value) == "64b13ca334d55119"


def test_a_value_that_cannot_be_recorded_is_named_by_its_dotted_key():
    with pytest.raises(InputError, match=r"optimizer\.betas\.1: object cannot be recorded"):
        fingerprint({"optimizer": {"betas": [0.9, object()]}})


def test_differences_name_dotted_keys_and_both_values():
    later = {
        **optimizer(type="torch.optim.SGD", lr=0.1, momentum=0.9),
        "seed": 0.0,
        "clip_norm": 1.0,
        "ema": {},
    }
    assert differences(SHAPING, later) == [
        "clip_norm: null -> 1",
        "ema: (absent) -> {}",
        "optimizer.lr: 0.002 -> 0.1",
        "optimizer.momentum: (absent) -> 0.9",
        "optimizer.type: torch.optim.Adam -> torch.optim.SGD",
    ]


def test_no_differences_exactly_where_the_fingerprint_is_the_same():
    assert differences(SHAPING, changed(seed=0.0)) == []
    assert differences(SHAPING, {}) != []
    assert differences({}, {}) == []


EARLIER: dict[str, str] = json.loads(Path(__file__).with_name("fingerprints.json").read_text())
CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without what the user of this checkout keeps in conf/local."""
    copied = tmp_path_factory.mktemp("project") / "conf"
    shutil.copytree(CONF, copied, ignore=shutil.ignore_patterns("local"))
    (copied / "local").mkdir()
    return copied


@pytest.mark.parametrize("choice", EARLIER)
def test_the_fingerprints_of_the_choices_in_conf_are_those_of_earlier_versions(
    choice: str, conf: Path
) -> None:
    """So that trainings made then are found, not trained again."""
    given = dict(part.split("=") for part in choice.split(",") if "=" in part)
    preset = None if given or choice == "base" else choice
    loader = LayeredConfigLoader(
        str(conf),
        env=preset,
        runtime_params={"image_path": "somewhere", **given},
        base_env="base",
        default_run_env="local",
    )
    settings = Parameters.from_tree(loader["parameters"]).training
    assert fingerprint(settings.shaping("0" * 64)) == EARLIER[choice]
