"""The last lines of a run: score, picture, report, and a command that works when typed."""

from __future__ import annotations

import json
import logging
import shlex

import click
import pytest
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog

from ddpm_kedro.datasets.report_files import MetricsFile, TextFile
from ddpm_kedro.hooks.run_summary import RunSummary, next_command


@pytest.fixture(autouse=True)
def project():
    configure_project("ddpm_kedro", preserve_logging=True)


def typed(*words: str) -> click.Context:
    return kedro_run.make_context("kedro run", list(words))


@pytest.mark.parametrize(
    ("done", "following"),
    [
        ("data_preparation", "training,sampling,evaluation"),
        ("training", "sampling,evaluation"),
        ("import_diffusers", "sampling,evaluation"),
        ("sampling", "evaluation"),
    ],
)
def test_the_stages_that_take_up_what_was_made_come_next(done, following):
    assert next_command(typed(), pipelines[done]) == f"`kedro run --pipelines {following}`"


@pytest.mark.parametrize("done", ["__default__", "evaluation", "export_diffusers"])
def test_after_the_last_stage_there_are_pictures_and_images_of_ones_own(done):
    command = next_command(typed("--env", "smoke"), pipelines[done])
    assert command.startswith("`kedro viz run --env smoke` ")
    assert "image_path=FOLDER" in command


def test_what_was_typed_is_typed_again(tmp_path):
    params = "data_root=/my disk/x,training.seed=3,training.max_minutes=null"
    command = next_command(
        typed("--pipelines", "training", "--env", "smoke", "--params", params),
        pipelines["training"],
    )
    again = typed(*shlex.split(command.strip("`").removeprefix("kedro run ")))
    assert again.params["params"] == typed("--params", params).params["params"]
    assert again.params["env"] == "smoke"
    assert again.params["pipelines"] == ["sampling", "evaluation"]


def test_what_was_meant_for_this_run_only_is_not_typed_again():
    command = next_command(
        typed("--params", "training.restart=true,force=true,seed=1"), pipelines["training"]
    )
    assert command.endswith(" --params seed=1`")
    command = next_command(typed("--params", "force=true"), pipelines["training"])
    assert command == "`kedro run --pipelines sampling,evaluation`"


def test_a_run_out_of_a_file_such_as_a_sweep_s_trial_ends_without_a_command(tmp_path):
    (tmp_path / "run.yml").write_text("run: {env: smoke}")
    context = kedro_run.make_context("run", ["--config", str(tmp_path / "run.yml")])
    assert next_command(context, pipelines["__default__"]) == ""
    assert "--config" in next_command(context, pipelines["training"])


@pytest.fixture
def last_lines(tmp_path, monkeypatch, caplog):
    """What is said at the end of a run that saved some datasets."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="ddpm_kedro")
    files = {"sample_grid": "grid.png", "report": "report.html"}
    catalog = DataCatalog(
        {name: TextFile(filepath=str(tmp_path / "data" / file)) for name, file in files.items()}
    )
    catalog["metrics"] = MetricsFile(filepath=str(tmp_path / "data" / "metrics.json"))

    summary = RunSummary()  # one for all runs of a process

    def end(saved: dict[str, object], has_worked: bool = True) -> list[str]:
        caplog.clear()
        summary.before_pipeline_run()
        if has_worked:
            summary.before_node_run()
        for name, data in saved.items():
            summary.after_dataset_saved(name, data)
        summary.after_pipeline_run(pipelines["__default__"], catalog)
        return [record.getMessage() for record in caplog.records]

    return end


SCORED = {"mind_ratio": 1.789, "mind_z": 20.31, "mind_verdict": "far"}


def test_the_end_names_the_score_the_picture_the_report_and_what_to_type(last_lines):
    with typed():
        lines = last_lines({"sample_grid": "", "metrics": SCORED, "report": ""})
    assert (
        lines[0]
        == "score: MIND 1.79 times that of real images, 20.3 deviations off (up to 2 is chance)"
    )
    assert lines[1:3] == ["picture: data/grid.png", "report: data/report.html"]
    assert lines[3].startswith("next: `kedro viz run`")
    assert len(lines) == 4


def test_what_this_run_did_not_make_is_not_named(last_lines):
    assert len(last_lines({"sample_grid": "", "metrics": SCORED})) == 2
    assert last_lines({"model": object()}) == []
    assert last_lines({"metrics": SCORED | {"mind_ratio": None}}) == []


def test_a_run_without_work_names_what_is_there(last_lines, tmp_path):
    assert last_lines({}, has_worked=False) == ["nothing to do: all results are there"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "report.html").write_text("")
    (tmp_path / "data" / "metrics.json").write_text(json.dumps(SCORED))
    nothing, score, report = last_lines({}, has_worked=False)
    assert nothing.startswith("nothing to do")
    assert score.startswith("score: MIND 1.79 ")
    assert report == "report: data/report.html"
    assert last_lines({}) == []  # a run that worked and saved nothing of these
