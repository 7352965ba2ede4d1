"""Options become objects, and wrong ones are refused before anything is made."""

from __future__ import annotations

import datetime
import sys

import pytest

import ddpm_kedro
from ddpm_kedro.construction import build, check, locate, long_form
from ddpm_kedro.errors import InputError


def test_build_passes_positional_and_keyword_arguments():
    option = {"type": "datetime.timedelta", "hours": 2}
    assert build(option, 1) == datetime.timedelta(days=1, hours=2)
    assert build(option, minutes=3) == datetime.timedelta(hours=2, minutes=3)


def test_nested_options_are_built_first():
    option = {
        "type": "fractions.Fraction",
        "numerator": {"type": "fractions.Fraction", "numerator": 3},
        "denominator": 4,
    }
    assert build(option) == build({"type": "fractions.Fraction", "numerator": 3, "denominator": 4})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"lr": 1}, "needs a type"),
        ("adam", "needs a type"),
        ({"type": "Adam"}, "dotted path"),
        ({"type": "no_such_module.Adam"}, "cannot import no_such_module"),
        ({"type": "torch.optim.Adamm"}, "has no Adamm"),
        ({"type": "math.pi"}, "float"),
        ({"type": "fractions.Fraction", "numerater": 1}, "numerater"),
        ({"type": "fractions.Fraction", "numerator": float("nan")}, "finite"),
        ({"type": "fractions.Fraction", "numerator": {"type": "math.nothing"}}, "has no nothing"),
        ({"type": "torch.optim.SGD", "lr": "nan"}, "lr=nan of torch.optim.SGD: give a finite"),
        ({"type": "torch.optim.SGD", "momentum": "much"}, "momentum=much"),
    ],
)
def test_refused_before_it_is_made(option, words):
    with pytest.raises(InputError, match=words):
        check(option)
    with pytest.raises(InputError, match=words):
        build(option)  # an optimizer without parameters too: the mistake comes first


@pytest.mark.parametrize("name", ["MinSNRWeight", "SoftMinSNRWeight"])
def test_infinity_is_taken_where_a_class_says_so(name):
    option = {"type": f"ddpm_kedro.diffusion.loss_weight.{name}", "gamma": float("inf")}
    assert build(option).gamma == float("inf")
    for wrong in (float("nan"), -float("inf")):
        with pytest.raises(InputError, match="finite"):
            build({**option, "gamma": wrong})


def test_a_refusal_of_the_constructor_keeps_its_words():
    with pytest.raises(InputError, match="both arguments should be Rational"):
        build({"type": "fractions.Fraction", "numerator": 1, "denominator": "x"})


@pytest.mark.parametrize(
    "path", ["os.system", "ddpm_kedro_evil.run", "ddpm_kedro.files.os.system", "subprocess.Popen"]
)
def test_only_trusted_modules_are_named(path):
    with pytest.raises(InputError):
        locate(path, trusted=("ddpm_kedro",))


@pytest.mark.parametrize("name", ["stranger_to_all", "ddpm_kedro_evil"])
def test_a_stranger_is_refused_before_it_is_imported(name, tmp_path, monkeypatch):
    """Importing runs a module, so a look at what it holds would come too late."""
    (tmp_path / f"{name}.py").write_text("class Network: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="not among the trusted modules"):
        locate(f"{name}.Network", trusted=("ddpm_kedro",))
    assert name not in sys.modules
    monkeypatch.setattr("ddpm_kedro.files.Network", type("Network", (), {}), raising=False)
    monkeypatch.setattr("ddpm_kedro.files.Network.__module__", name)
    with pytest.raises(InputError, match="outside the trusted modules"):
        locate("ddpm_kedro.files.Network", trusted=("ddpm_kedro",))


def test_an_import_of_a_trusted_module_is_not_trusted():
    with pytest.raises(InputError, match="outside the trusted modules"):
        locate("ddpm_kedro.files.Path", trusted=("ddpm_kedro",))


def test_a_trusted_module_passes():
    from ddpm_kedro.files import Receipt

    assert locate("ddpm_kedro.files.Receipt", trusted=("ddpm_kedro.",)) is Receipt


@pytest.mark.parametrize("name", ddpm_kedro.PUBLIC)
def test_a_public_name_and_its_first_path_are_one_class(name):
    first = f"ddpm_kedro.{ddpm_kedro.PUBLIC[name]}.{name}"
    assert locate(f"ddpm_kedro.{name}", trusted=("ddpm_kedro",)) is locate(first)
    assert long_form([{"type": f"ddpm_kedro.{name}"}]) == [{"type": first}]


def test_one_class_has_one_spelling_however_deep_it_stands():
    inner = {"type": "ddpm_kedro.diffusion.noise_schedule.LinearSchedule", "num_timesteps": 10}
    option = {"type": "ddpm_kedro.ZeroTerminalSNR", "schedule": inner, "weights": (1, 2)}
    long = long_form(option)
    assert long["type"] == "ddpm_kedro.diffusion.noise_schedule.ZeroTerminalSNR"
    assert long == long_form({**option, "schedule": {**inner, "type": "ddpm_kedro.LinearSchedule"}})
    package = {"type": "ddpm_kedro.diffusion.backbones.DDPMUNet"}
    assert long_form(package) == long_form({"type": "ddpm_kedro.DDPMUNet"})


def test_a_class_of_the_same_name_elsewhere_keeps_its_spelling(monkeypatch):
    monkeypatch.setattr("ddpm_kedro.files.DDIM", type("DDIM", (), {}), raising=False)
    for path in ("mine.DDIM", "ddpm_kedro.files.DDIM"):
        assert long_form({"type": path}) == {"type": path}
