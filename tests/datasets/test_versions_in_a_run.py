"""`versioned: true`, `--load-versions` and other file systems through `kedro run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PIPELINES = """
from kedro.pipeline import Pipeline, node

def register_pipelines():
    count = lambda count: {"count": count}
    make = Pipeline([node(count, "params:count", "metrics", name="make")])
    text = lambda metrics: f"{metrics['count']}\\n"
    tell = Pipeline([node(text, "metrics", "report", name="tell")])
    keep = Pipeline([node(lambda metrics: metrics, "metrics", "far", name="keep")])
    fill = Pipeline([node(lambda metrics: None, "metrics", "array", name="fill")])
    return {"make": make, "tell": tell, "keep": keep, "fill": fill, "__default__": make + tell}
"""
SETTINGS = """
from ddpm_kedro.framework.session import ProjectSession
from ddpm_kedro.hooks.stage_lines import StageLines

SESSION_CLASS = ProjectSession
HOOKS = (StageLines(),)
"""
CATALOG = """
metrics:
  type: ddpm_kedro.datasets.report_files.MetricsFile
  filepath: data/metrics.json
  versioned: true
  written_by: make
report:
  type: ddpm_kedro.datasets.report_files.TextFile
  filepath: data/report.txt
  versioned: true
far:
  type: ddpm_kedro.datasets.report_files.JSONFile
  filepath: memory:///far/metrics.json
  credentials: mine
array:
  type: ddpm_kedro.datasets.arrays.NumpyFile
  filepath: data/array.npy
  versioned: true
"""
LOGGING = """
version: 1
handlers: {console: {class: logging.StreamHandler, stream: ext://sys.stdout}}
root: {handlers: [console]}
loggers: {ddpm_kedro: {level: INFO}, kedro: {level: WARNING}}
"""


@pytest.fixture
def kedro_run(tmp_path):
    """A small project around our datasets; run it, and get the exit code and what was said."""
    files = {
        "pyproject.toml": "[tool.kedro]\npackage_name = 'small'\nproject_name = 'small'\n"
        "kedro_init_version = '1.7.0'\nsource_dir = 'src'\n",
        "src/small/__init__.py": "",
        "src/small/settings.py": SETTINGS,
        "src/small/pipeline_registry.py": PIPELINES,
        "conf/base/catalog.yml": CATALOG,
        "conf/base/parameters.yml": "count: 1\n",
        "conf/local/credentials.yml": "mine: {skip_instance_cache: true}\n",
        "conf/logging.yml": LOGGING,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "kedro", "run", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_every_run_keeps_its_version_and_an_older_one_is_loaded(kedro_run, tmp_path):
    for count in (1, 2):
        code, said = kedro_run("--params", f"count={count}")
        assert code == 0, said
        newest = max((tmp_path / "data/report.txt").iterdir()).name
        assert f"-> data/report.txt/{newest}/report.txt" in said
        assert (tmp_path / f"data/report.txt/{newest}/report.txt").read_bytes() == b"%d\n" % count
    versions = sorted(path.name for path in (tmp_path / "data/metrics.json").iterdir())
    assert len(versions) == 2
    for version, count in zip(versions, (1, 2), strict=True):
        path = tmp_path / f"data/metrics.json/{version}/metrics.json"
        assert json.loads(path.read_text()) == {"count": count}
    code, said = kedro_run("--pipelines", "tell", "--load-versions", f"metrics:{versions[0]}")
    assert code == 0, said
    newest = max((tmp_path / "data/report.txt").iterdir())
    assert (newest / "report.txt").read_text() == "1\n"
    code, said = kedro_run("--pipelines", "tell", "--load-versions", "metrics:2020-01-01")
    assert code == 1
    assert "Traceback" not in said
    assert f"there are {versions[1]}, {versions[0]}" in said


def test_mistakes_are_one_line_and_a_remote_place_is_named(kedro_run, tmp_path):
    code, said = kedro_run("--pipelines", "tell")
    assert code == 1
    assert "Traceback" not in said
    assert f"no file {tmp_path}/data/metrics.json: run `kedro run --pipelines make` first" in said
    code, said = kedro_run("--pipelines", "make,keep")
    assert code == 0, said
    assert "-> memory:///far/metrics.json" in said
    code, said = kedro_run("--pipelines", "make,fill")
    assert code == 1
    assert "Traceback" not in said
    assert f"{tmp_path}/data/array.npy: leave `versioned: true` out" in said
