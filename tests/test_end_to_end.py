"""`kedro run` as a user types it: the smoke preset through every stage, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]


def command(data_root: Path, *options: str, params: str = "", env: str = "smoke") -> list[str]:
    given = f"data_root={data_root}" + (f",{params}" if params else "")
    return [sys.executable, "-m", "kedro", "run", "--env", env, "--params", given, *options]


def environment(**changes: str) -> dict[str, str]:
    return {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "WANDB_MODE": "disabled",
        "COLUMNS": "200",
        **changes,
    }


def kedro_run(
    data_root: Path, *options: str, params: str = "", env: str = "smoke"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(data_root, *options, params=params, env=env),
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def fingerprints(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    result = kedro_run(root)
    assert result.returncode == 0, result.stdout + result.stderr
    return root


def test_every_stage_leaves_what_the_contract_names(finished):
    samples = np.load(finished / "07_model_output/samples.npy")
    assert samples.dtype == np.uint8
    assert samples.shape == (64, 1, 8, 8)
    assert samples.std() > 10  # pictures, not one grey
    with Image.open(finished / "08_reporting/sample_grid.png") as grid:
        assert min(grid.size) > 64
    metrics = json.loads((finished / "08_reporting/metrics.json").read_text())
    assert metrics
    log = [
        json.loads(line)
        for line in (finished / "08_reporting/training_log.jsonl").read_text().splitlines()
    ]
    assert log[-1]["images_seen"] == 640
    assert {"step", "images_seen", "loss", "lr", "images_per_second", "elapsed_seconds"} <= set(
        log[-1]
    )
    report = (finished / "08_reporting/report.html").read_text()
    assert "Adam(betas=" in report  # what was used
    card = json.loads((finished / "08_reporting/data_card.json").read_text())
    assert card


def test_the_same_seed_gives_the_same_bytes(finished, tmp_path):
    result = kedro_run(tmp_path, params="sampling.batch_size=17")
    assert result.returncode == 0, result.stderr
    first, second = (root / "07_model_output/samples.npy" for root in (finished, tmp_path))
    assert first.read_bytes() == second.read_bytes()
    first, second = (root / "06_models/model.safetensors" for root in (finished, tmp_path))
    assert first.read_bytes() == second.read_bytes()


def test_a_model_file_works_without_kedro(finished):
    import ddpm_kedro

    model = ddpm_kedro.load_model(finished / "06_models/model.safetensors")
    images = model.sample(4, seed=1, num_steps=3)
    assert images.shape == (4, 1, 8, 8)
    assert images.dtype == np.uint8


def test_done_is_done_and_another_choice_starts_beside_it(finished):
    before = (finished / "06_models/model.safetensors").read_bytes()
    again = kedro_run(finished, "--pipelines", "training")
    assert again.returncode == 0, again.stderr
    assert "done" in again.stdout + again.stderr
    assert (finished / "06_models/model.safetensors").read_bytes() == before
    report = (finished / "08_reporting/report.html").read_bytes()
    other = kedro_run(finished, "--pipelines", "training,evaluation", params="optimizer=sgd")
    assert other.returncode == 1  # it trains, and does not judge the first one's samples as its own
    assert "run `kedro run --pipelines sampling,evaluation`" in other.stderr
    assert (finished / "06_models/model.safetensors").read_bytes() != before
    assert (finished / "08_reporting/report.html").read_bytes() == report
    back = kedro_run(finished, "--pipelines", "training")
    assert back.returncode == 0, back.stderr
    assert (finished / "06_models/model.safetensors").read_bytes() == before


WRONG = [
    ("optimizer=rmsprop", (), 1, "optimizer=rmsprop: choose one of"),
    ("dataset=parquet,image_path=/no/such.parquet", (), 1, "/no/such.parquet"),
    ("", ("--pipelines", "nowhere"), 1, "nowhere"),
]


@pytest.mark.parametrize(("params", "options", "code", "words"), WRONG)
def test_wrong_input_is_one_line_and_harms_nothing(finished, params, options, code, words):
    before = fingerprints(finished)
    result = kedro_run(finished, *options, params=params)
    assert result.returncode == code
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert words in lines[0]
    assert fingerprints(finished) == before


def test_sampling_without_a_model_says_what_to_run(tmp_path):
    result = kedro_run(tmp_path, "--pipelines", "sampling")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "kedro run --pipelines training" in result.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_where_it_stopped(finished, tmp_path, signum, code):
    params = "training.log_every_kimg=0.032"
    process = subprocess.Popen(
        command(tmp_path, params=params + ",training.budget_kimg=1000"),
        cwd=PROJECT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("06_models/trainings/*/training_log.jsonl")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    (log,) = tmp_path.glob("06_models/trainings/*/training_log.jsonl")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    budget_kimg = (steps[-1] + 3) * 32 / 1000
    result = kedro_run(
        tmp_path, "--pipelines", "training", params=f"{params},training.budget_kimg={budget_kimg}"
    )
    assert result.returncode == 0, result.stderr
    (log,) = tmp_path.glob("06_models/trainings/*/training_log.jsonl")  # the same training
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == round(budget_kimg * 1000 / 32)
