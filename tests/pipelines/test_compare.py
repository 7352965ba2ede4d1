"""The comparison as a pipeline and as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from finished_runs import finished_run, write
from kedro.io import DatasetError
from PIL import Image

from ddpm_kedro.datasets.comparison import ComparisonTable, RunFolders
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.settings import CompareSettings
from ddpm_kedro.parameters import read

PROJECT = Path(__file__).parents[2]


def kedro_compare(data_root: Path, *options: str) -> list[str]:
    """What the command says, without the time; the exit code first."""
    command = [sys.executable, "-m", "kedro", "compare", *options]
    given = {**os.environ, "DO_NOT_TRACK": "1", "WANDB_MODE": "disabled", "COLUMNS": "300"}
    result = subprocess.run(
        [*command, "--params", f"data_root={data_root}"],
        cwd=PROJECT,
        env=given,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.partition(" INFO ")[2].strip() or line for line in result.stderr.splitlines()]
    return [str(result.returncode), *lines]


def test_a_comparison_is_made_once_and_again_when_a_run_changes(tmp_path: Path) -> None:
    finished_run(tmp_path / "root" / "sweeps" / "rates" / "low", mind=10)
    other = finished_run(tmp_path / "other", mind=30)
    typed = tmp_path / "root", "low", f"best={other}"
    first = kedro_compare(*typed, "--output", str(tmp_path / "page"))
    assert first[0] == "0", first
    assert any(line.startswith("Of 2 runs low is best") for line in first)
    table = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert list(table["runs"]) == ["low", "best"]
    assert table["verdict"] in (tmp_path / "page" / "comparison.html").read_text()
    with Image.open(tmp_path / "page" / "film_strip.webp") as film:
        assert film.n_frames == 3
    again = kedro_compare(*typed, "--output", str(tmp_path / "page"))
    assert any(line.startswith("compare_runs: nothing has changed") for line in again)


def test_runs_are_known_by_what_is_read_of_them(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a")
    runs = RunFolders(runs=[str(folder)], path=str(tmp_path / "sweeps"))
    assert runs.load() == {"a": folder}
    before = runs.facts()
    (folder / "06_models").mkdir()
    (folder / "06_models" / "model.safetensors").write_bytes(b"is not read")
    os.utime(folder / "08_reporting" / "metrics.json", (1, 1))
    assert runs.facts() == before
    for changed in (
        "08_reporting/training_log.jsonl",
        "08_reporting/sample_previews/preview_000000001000.png",
        "07_model_output/samples.npy",
        "06_models/train_model.made.json",
    ):
        with open(folder / changed, "ab") as file:
            file.write(b" ")
        assert runs.facts() != before
        before = runs.facts()
    with pytest.raises(DatasetError, match="read, not saved"):
        runs.save({})


@pytest.mark.parametrize(
    ("runs", "said"), [([], "no runs to compare"), (["b"], "b is no finished run")]
)
def test_what_is_no_run_is_refused_before_any_work(
    tmp_path: Path, runs: list[str], said: str
) -> None:
    (tmp_path / "sweeps" / "s" / "b").mkdir(parents=True)
    folders = RunFolders(runs=runs, path=str(tmp_path / "sweeps"))
    for ask in (folders.load, folders.facts):
        with pytest.raises((InputError, DatasetError), match=said):
            ask()


def test_the_setting_is_a_list_of_runs() -> None:
    with pytest.raises(InputError, match=r"compare\.runs=a: give a list of folders or trials"):
        CompareSettings("a", "out")
    with pytest.raises(InputError, match="give a list"):
        read(CompareSettings, {"runs": [3], "output": "out"})


def test_viz_shows_a_line_for_each_run(tmp_path: Path) -> None:
    table = ComparisonTable(filepath=str(tmp_path / "comparison.json"))
    assert table.preview()["data"] == []
    rows = {"x": {"stamp": "5ca1", "mind": 1.23456, "mind_interval": 0.5, "parameters": 12}}
    write(tmp_path / "comparison.json", {"runs": {**rows, "y": {"stamp": None}}})
    assert table.preview() == {
        "index": [0, 1],
        "columns": ["run", "stamp", "mind", "parameters"],
        "data": [["x", "5ca1", "1.235 \u00b1 0.5", 12], ["y", None, None, None]],
    }
