"""What our commands print: their help, what was asked for, one line for a mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner, Result
from kedro.framework.project import configure_project

import ddpm_kedro
from ddpm_kedro import PUBLIC
from ddpm_kedro.cli import cli
from ddpm_kedro.framework.class_sentence import class_sentence
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.framework.origins import leaves
from ddpm_kedro.settings import CONFIG_LOADER_ARGS
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.settings import SweepSettings

PROJECT = Path(__file__).parents[1]
TABLES = {path.stem for path in (PROJECT / "conf/base/parameters").iterdir()}
TABLES |= {"loss_weights", "timestep_samplings"}  # beside the objectives


@pytest.fixture
def project(tmp_path):
    """A project with our base and homework, and nothing of a user's."""
    (tmp_path / "conf" / "local").mkdir(parents=True)
    for name in ("base", "homework"):
        (tmp_path / "conf" / name).symlink_to(PROJECT / "conf" / name)
    return tmp_path


@pytest.fixture
def ours(monkeypatch, project):
    """Runs one of our commands as `kedro` does, in this process and so many columns."""
    configure_project("ddpm_kedro", preserve_logging=True)
    monkeypatch.delenv("KEDRO_ENV", raising=False)

    def run(*typed: str, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        metadata = SimpleNamespace(project_path=project)
        return CliRunner().invoke(cli, typed, obj=metadata, terminal_width=columns)

    return run


def kedro(*typed: str, module: str = "kedro") -> str:
    command = [sys.executable, "-m", module, *typed]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_kedro_lists_our_commands():
    listed = kedro("--help").partition("commands from ddpm_kedro")[2].partition("\nProject")[0]
    for name in cli.list_commands(None):
        assert re.search(rf"^ +{name} +\S.{{20,}}\S$", listed, re.M), listed


def test_the_packages_own_command_is_kedro_run():
    assert "--pipelines" in kedro("--help", module="ddpm_kedro")


@pytest.mark.parametrize("name", cli.list_commands(None))
@pytest.mark.parametrize("columns", [80, 120])
def test_help_says_what_each_option_is_for(ours, name, columns):
    result = ours(name, "--help", columns=columns)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert lines[0].startswith(f"Usage: ddpm_kedro {name} ")
    assert len(lines[2].split()) > 3
    for option in cli.get_command(None, name).params:
        assert option.param_type_name == "argument" or option.help, option.name


def test_a_command_that_we_do_not_have_is_not_ours():
    assert cli.get_command(None, "command") is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["optimzer"], "optimzer: choose one of formulation,.* .did you mean optimizer?"),
        (["--env", "nowhere"], "--env nowhere: no folder"),
        (["--params", "optimizer=rmsprop"], "optimizer=rmsprop: choose one of adam"),
        (["--params", "optimzer=sgd"], "optimzer=sgd: no such parameter; did you mean optimizer?"),
        (["sampler", "--params", "training.batch_size=0"], "training.batch_size=0: input should"),
    ],
)
def test_a_mistake_is_one_line(ours, typed, said):
    result = ours("choices", *typed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.match(f"Error: {said}", result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_a_mistake_in_params_yaml_is_said_with_its_name(ours, project):
    (project / "params.yaml").write_text("optimzer: sgd\n")
    result = ours("choices")
    assert result.stderr.startswith("Error: params.yaml: optimzer=sgd: no such parameter")


def test_the_preset_is_also_taken_from_the_environment(ours, monkeypatch):
    monkeypatch.setenv("KEDRO_ENV", "homework")
    assert "backbone = homework  homework\n" in ours("choices").output
    assert "backbone = compact  base\n" in ours("choices", "--env", "local").output


def test_choices_need_no_torch():
    program = (
        "import sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from kedro.framework.project import configure_project; configure_project('ddpm_kedro')\n"
        "from ddpm_kedro.cli import cli\n"
        "cli(['choices', 'sampler'], obj=SimpleNamespace(project_path=Path()), "
        "standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


class TestChoices:
    def test_a_value_is_told_with_its_layer_and_who_chose_it(self, ours):
        typed = "optimizer=sgd,training.optimizer.momentum=0.5"
        lines = ours("choices", "--env", "homework", "--params", typed, columns=120).output
        values = lines.partition("Values not from base alone; ")[2].splitlines()
        assert values[0] == "layers: base < homework < --params"
        told = [re.split(" = |  +", line) for line in values]
        assert ["training.optimizer.momentum", "0.5", "--params"] in told
        by_params = "(optimizers.sgd), chosen by --params"
        assert ["training.optimizer.lr", "0.0001", f"homework {by_params}"] in told
        assert ["training.optimizer.type", "torch.optim.SGD", f"base {by_params}"] in told
        assert ["training.budget_kimg", "5000", "homework"] in told
        assert not any(row[0] in ("seed", "training.seed", "optimizer") for row in told)
        assert re.search(r"^optimizer = sgd +--params$", lines, re.M)
        chosen = r"base \(formulations\.eps_linear\), chosen by homework"
        assert re.search(rf"^objective = eps +{chosen}$", lines, re.M)

    def test_every_option_is_shown_with_what_it_sets_and_the_chosen_one_is_marked(self, ours):
        lines = ours("choices", "--params", "optimizer=mine,optimizers.mine.type=my.Own").output
        _, _, group = lines.partition("optimizer = mine  --params\n")
        adam, adamw, sgd, mine = group.splitlines()[:4]
        assert re.fullmatch(r"    adam +Adam\(lr=0.003, betas=\[0.9, 0.99\]\)", adam)
        assert adamw.startswith("    adamw ")
        assert sgd.startswith("    sgd ")
        assert re.fullmatch(r"  \* mine +Own\(\)", mine)

    def test_everything_is_every_value_of_a_run(self, ours, project):
        tree = LayeredConfigLoader(str(project / "conf"), **CONFIG_LOADER_ARGS)["parameters"]
        expected = {path for path, _ in leaves(tree) if path.split(".")[0] not in TABLES}
        shown = re.findall(r"^(\S+) = ", ours("choices", "--all").output, re.M)
        assert len(shown) == len(set(shown))
        assert set(shown) == expected
        assert ours("choices").output.endswith("Every value comes from base; --all shows them\n")

    def test_a_group_says_what_its_classes_are(self, ours):
        lines = ours("choices", "sampler", "--params", "sampling.sampler=heun", columns=120).output
        assert "* ddim  ddpm_kedro.DDIM\n    x' = alpha' x_0 +" in lines
        assert re.search(r"^    num_steps = 1000 +base$", lines, re.M)
        _, _, values = lines.partition("Values of a run\n")
        assert re.search(r"^training.sampler.eta = 0.0 +base \(samplers.ddim\)$", values, re.M)
        told = r"base \(samplers.heun\), chosen by --params"
        assert re.search(rf"^sampling.sampler.num_steps = 25 +{told}$", values, re.M)
        assert "torch.optim.SGD\n    lr = 0.1" in ours("choices", "optimizer").output

    @pytest.mark.parametrize("columns", [80, 120])
    @pytest.mark.parametrize("group", ["", "sampler", "formulation", "features"])
    def test_lines_fit(self, ours, group, columns):
        typed = ["--env", "homework", "--params", "optimizer=sgd", *filter(None, [group])]
        lines = ours("choices", *typed, columns=columns).output.splitlines()
        assert len(lines) > 20
        assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("name", "kimg", "sampler"), [("", 5000, "Ancestral"), ("_cpu", 10, "DDIM")]
)
def test_the_course_s_runs_differ_from_the_first_in_one_choice(ours, project, name, kimg, sampler):
    sweeps = yaml.safe_load((project / "conf/homework/sweep.yml").read_text())
    plan = Plan("course", SweepSettings.of("course", sweeps[f"homework{name}"]), project)
    runs = [trial.parameters for trial in plan.trials()]
    assert [(run.optimizer, run.augmentation) for run in runs] == [
        ("adam", "none"),
        ("sgd", "none"),
        ("adam", "flip"),
    ]
    for run in runs:
        assert run.training.budget_kimg == kimg
        assert run.training.log_every_kimg <= run.training.preview_every_kimg < kimg
        assert run.training.sampler["type"].endswith(sampler)
        assert run.backbone == "homework"


def test_every_option_of_ours_has_a_sentence():
    for name in [name for name in PUBLIC if name != "load_model"]:
        sentence = class_sentence(f"ddpm_kedro.{name}")
        assert re.fullmatch(r".{10,}[^:]", sentence), name
        documented = " ".join(str(getattr(ddpm_kedro, name).__doc__).split())
        assert documented.startswith(sentence)
    full = "ddpm_kedro.diffusion.samplers.ancestral.DDIM"
    assert class_sentence(full) == class_sentence("ddpm_kedro.Euler") != ""
    for other in ("torch.optim.SGD", "ddpm_kedro.Nothing", "ddpm_kedro.no.Thing", "ddpm_kedro", ""):
        assert class_sentence(other) == ""
