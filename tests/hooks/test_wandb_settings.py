"""Online, offline or disabled: from wandb.yml, the environment and netrc, without asking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm_kedro.errors import InputError
from ddpm_kedro.hooks.wandb_settings import WandbSettings, find_api_key, numbers, recorded

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "conf/base/wandb.yml").read_text())
SERVER = "https://api.wandb.ai"


def settings(**changed: Any) -> WandbSettings:
    return WandbSettings.from_config({**SHIPPED, **changed})


@pytest.mark.parametrize(
    ("configured", "environ", "mode"),
    [
        ("auto", {}, None),
        ("offline", {}, "offline"),
        ("online", {"WANDB_MODE": ""}, "online"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("disabled", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_DISABLED": "true"}, "disabled"),
    ],
)
def test_the_environment_wins_over_the_file(configured, environ, mode):
    assert settings(mode=configured).asked_mode(environ) == mode


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match="WANDB_MODE=maybe: choose one of online, offline"):
        settings().asked_mode({"WANDB_MODE": "maybe"})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"projekt": "x"}, "projekt=x: no such parameter; did you mean project"),
        ({"mode": "on"}, "mode=on: "),
        ({"init_timeout": 0}, "init_timeout=0: "),
        ({"init_timeout": float("inf")}, "init_timeout=inf: "),
        ({"num_images": "many"}, "num_images=many: "),
        ({"project": ""}, "project=: "),
    ],
)
def test_a_wrong_key_or_value_is_one_line(changed, words):
    with pytest.raises(InputError, match=words) as refused:
        settings(**changed)
    assert "\n" not in str(refused.value)


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"wandb\.yml: project: missing"):
        WandbSettings.from_config({k: v for k, v in SHIPPED.items() if k != "project"})


def test_the_key_of_the_environment_comes_first(tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai\n  login user\n  password from-netrc\n")
    environ = {"NETRC": str(path)}
    assert find_api_key(SERVER, environ) == "from-netrc"
    assert find_api_key(SERVER, {**environ, "WANDB_API_KEY": "from-env"}) == "from-env"
    assert find_api_key("https://wandb.example.org:8443", environ) is None


def test_netrc_of_the_home_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_api_key(SERVER, {}) is None
    (tmp_path / "_netrc").write_text("machine api.wandb.ai login user password from-home\n")
    assert find_api_key(SERVER, {}) == "from-home"


@pytest.mark.parametrize(
    "text", ["default login a password b\n", "machine api.wandb.ai nonsense\n", ""]
)
def test_a_netrc_without_a_key_for_the_server_gives_none(tmp_path, text):
    (tmp_path / "netrc").write_text(text)
    assert find_api_key(SERVER, {"NETRC": str(tmp_path / "netrc")}) is None


@pytest.mark.parametrize(
    "value",
    ["photos", "/abs/x", "relative/x", "C:\\x", "~me", "node7:29400", Path("x"), ["a", "b"]],
)
def test_a_text_of_unknown_meaning_is_left_out_at_any_depth(value):
    empty = {"own": []} if isinstance(value, list) else {}
    assert recorded({"a": [{"own": value, "kept": 1}]}, ["type"]) == {"a": [{**empty, "kept": 1}]}


@pytest.mark.parametrize("value", [0.1, 3, None, False, {}, [1, 2.5], "torch.optim.SGD", ["a"]])
def test_numbers_and_named_texts_are_kept(value):
    tree = {"type": value, "path": {"type": value}}
    assert recorded(tree, ["type"]) == tree


def test_no_path_of_the_shipped_parameters_may_be_named():
    assert not {"path", "image_path", "data_root", "raw_root", "prepared_root", "init_from",
                "rendezvous", "import_path"} & set(SHIPPED["recorded_texts"])  # fmt: skip


def test_numbers_drop_texts_and_curves():
    tree = {"a": 1.5, "b": {"c": [1, 2], "d": {"e": True}}, "h": "/x", "i": None}
    assert numbers(tree) == {"a": 1.5, "b": {"d": {"e": True}}}
