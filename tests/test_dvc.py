"""dvc.yaml is held against the pipelines, and what its first stage writes against what it stands
for. DVC itself is not needed; benchmarks/touches.py runs it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog
from kedro.io.core import is_parameter
from PIL import Image

from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.place import place_of
from ddpm_kedro.diffusion.model_spec import KINDS
from ddpm_kedro.framework import stage_inputs as module
from ddpm_kedro.framework.composition import walk
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.framework.record import SUFFIX
from ddpm_kedro.framework.stage_inputs import MODEL_OPTIONS, STAGES, main, stage_inputs
from ddpm_kedro.framework.units import units_of
from ddpm_kedro.pipeline_registry import register_pipelines

PROJECT = Path(__file__).parents[1]
DVC: Mapping[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
LOADER = LayeredConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="local")
CATALOG = DataCatalog.from_config(LOADER["catalog"])
PIPELINES = register_pipelines()


def files(names: set[str]) -> set[str]:
    """The paths of datasets in the catalog, handles and parameters aside."""
    entries = [CATALOG.get(name) for name in names if not is_parameter(name)]
    return {place_of(entry).path for entry in entries if not isinstance(entry, Handle)}


def records(stage: str) -> set[str]:
    """Where the runner keeps what it knows of the units of a stage."""
    first = (unit.nodes[0] for unit in units_of(PIPELINES[stage], CATALOG))
    places = ((node.name, place_of(CATALOG.get(node.outputs[0]))) for node in first)
    return {place.beside(f"{name}{SUFFIX}").path for name, place in places}


def test_every_stage_of_the_default_run_is_there_in_order():
    assert tuple(DVC["stages"]) == ("inputs", *STAGES)
    nodes = {node.name for stage in STAGES for node in PIPELINES[stage].nodes}
    assert nodes == {node.name for node in PIPELINES["__default__"].nodes}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_files_that_its_pipeline_reads_and_writes(stage):
    said, pipeline = DVC["stages"][stage], PIPELINES[stage]
    assert said["cmd"] == f"kedro run --pipelines {stage}"
    assert set(said.get("deps", ())) == files(pipeline.inputs())
    # Paths alone: what DVC has no whole copy of, it does not bring back without a run
    outs = [entry for key in ("outs", "metrics") for entry in said.get(key, ())]
    assert set(outs) == files(pipeline.all_outputs()) | records(stage)
    assert said["params"] == [{f"data/stages/{stage}.yaml": None}]


def test_what_stages_compare_is_written_first_whatever_changed():
    inputs = DVC["stages"]["inputs"]
    assert inputs["always_changed"]
    written = {path for entry in inputs["outs"] for path in entry}
    assert written == {f"data/stages/{stage}.yaml" for stage in STAGES}
    kept = [options for entry in inputs["outs"] for options in entry.values()]
    assert kept == [{"persist": True}] * len(STAGES)  # a file that says the same stays
    assert inputs["params"] == [{"params.yaml": None}]


def test_plots_are_of_files_that_stages_make():
    made = {path for stage in STAGES for path in DVC["stages"][stage]["outs"]}
    drawn = {path for plot in DVC["plots"] for path in plot if "/" in path}
    drawn |= {path for plot in DVC["plots"] for said in plot.values() for path in said["y"]}
    assert {path for path in drawn if "/" in path} <= made


def test_params_yaml_sets_nothing_and_names_parameters_with_every_choice():
    text = yaml.safe_load((PROJECT / "params.yaml").read_text())
    named = {path for path, value in walk(text) if not isinstance(value, Mapping)}
    assert {value for path, value in walk(text) if path in named} == {None}
    base = LOADER["parameters"]
    choices = yaml.safe_load((PROJECT / "conf/base/parameters_choices.yml").read_text())
    chosen = {name for name in base if any(f"${{{name}}}" in str(v) for _, v in walk(choices))}
    assert "optimizer" in chosen
    assert chosen - {"data_root", "raw_root", "prepared_root", "device"} <= named
    assert named - dict(walk(base)).keys() == {"preset"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without code of its own, in whose folder the test runs."""
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    (tmp_path / "conf/local/parameters.yml").unlink(missing_ok=True)
    for name in ("pyproject.toml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "code_of", lambda *_: {})


@cache
def plain() -> dict[str, Any]:
    """Of the project as it is, without code."""
    return stage_inputs(Path.cwd())


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {stage for stage in STAGES if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("said", "stages"),
    [
        ("optimizers: {sgd: {lr: 5}}", set()),  # not chosen
        ("optimizers: {adam: {lr: 5}}", {"training"}),
        ("training: {restart: true}\nforce: true", set()),  # what to do now
        ("sampling: {grid_images: 9}", {"sampling"}),
        ("evaluation: {max_images: 9}", {"evaluation"}),
        ("features: pixels", {"training", "evaluation"}),
        ("image_size: 16", {"data_preparation"}),
    ],
)
@pytest.mark.usefixtures("no_code")
def test_a_parameter_reaches_the_stages_that_use_it(project, said, stages):
    before = plain()
    (project / "conf/local/parameters.yml").write_text(said)
    assert changed(before, stage_inputs(project)) == stages


def test_code_is_that_of_nodes_which_a_change_of_code_runs_again(project):
    code = {stage: said["code"] for stage, said in stage_inputs(project).items()}
    assert "ddpm_kedro.pipelines.sampling.nodes" in code["sampling"]
    assert not code["training"]  # it is kept
    backbone = "ddpm_kedro.diffusion.backbones.compact"  # named in the model file only
    assert [stage for stage in STAGES if backbone in code[stage]] == ["sampling", "evaluation"]
    assert set(MODEL_OPTIONS) == set(KINDS)


@pytest.mark.usefixtures("no_code")
def test_images_are_compared_by_content(project):
    (folder := project / "photos").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    (project / "params.yaml").write_text("dataset: image_folder\nimage_path: photos\n")
    before, one = stage_inputs(project), folder / "1.png"
    one.write_bytes(one.read_bytes())
    assert not changed(before, stage_inputs(project))
    Image.new("L", (8, 8), 9).save(one)
    assert changed(before, stage_inputs(project)) == {"data_preparation"}


@pytest.mark.usefixtures("no_code")
def test_a_file_that_says_the_same_is_left_alone(project):
    main()
    left, damaged = (project / f"data/stages/{stage}.yaml" for stage in ("training", "sampling"))
    before, whole = left.stat(), damaged.read_text()
    damaged.write_text("damaged")
    main()
    assert (left.stat().st_mtime_ns, left.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert damaged.read_text() == whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: sdg", "params.yaml: optimizer=sdg: choose one of"),
        ("training: {batch_size: 0}", "params.yaml: training.batch_size=0: "),
        ("data_root: elsewhere", "data_root=elsewhere: dvc.yaml tracks data"),
        ("dataset: image_folder\nimage_path: nowhere", "image_path=.*nowhere: No such file"),
    ],
)
def test_a_mistake_is_one_line(project, text, words):
    (project / "params.yaml").write_text(text)
    with pytest.raises(SystemExit, match=words) as refused:
        main()
    assert "\n" not in str(refused.value)
    assert not (project / "data/stages").exists()
