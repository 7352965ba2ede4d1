"""`kedro run` as a user types it: the smoke preset through every stage, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
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
        if path.is_file() and path.name != "lock" and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    root = tmp_path_factory.mktemp("finished")
    result = kedro_run(root)
    assert result.returncode == 0, result.stdout + result.stderr
    return root, result


@pytest.fixture
def finished(first_run) -> Path:
    return first_run[0]


def only_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a run which was refused says beside its progress."""
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_a_run_says_what_it_did_in_few_lines(first_run):
    root, result = first_run
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    assert len(lines) < 40
    assert "\x1b" not in result.stderr
    assert all(re.match(r"\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING) ", line) for line in lines)
    told = [line.split(None, 3)[3] for line in lines]
    for node in ("prepare_images", "train_model", "sample_images", "evaluate_samples"):
        assert sum(line.startswith(f"{node}: ") and " -> " in line for line in told) == 1
    assert any(f"-> {root}/07_model_output/samples.npy, " in line for line in told)
    score, picture, report, following = told[-4:]
    assert re.match(r"score: MIND \d+\.\d\d times ", score)
    assert picture == f"picture: {root}/08_reporting/sample_grid.png"
    assert report == f"report: {root}/08_reporting/report.html"
    assert following.startswith(f"next: `kedro viz run --env smoke --params data_root={root}`")


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
    assert "train_model: nothing has changed since" in again.stdout + again.stderr
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


def test_a_new_sampler_draws_from_the_model_that_is_there(finished, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    written = ("06_models/model.safetensors", "07_model_output/samples.npy")
    model, samples = ((root / name).read_bytes() for name in written)
    trainings = {path.name for path in (root / "06_models/trainings").iterdir()}
    for params, options in [
        ("sampler=heun", ()),  # training too: it finds itself done
        ("sampling.sampler=dpmpp_2m", ("--pipelines", "sampling")),
    ]:
        result = kedro_run(root, *options, params=params)
        assert result.returncode == 0, result.stdout + result.stderr
        assert (root / written[0]).read_bytes() == model
        assert (root / written[1]).read_bytes() != samples
        assert {path.name for path in (root / "06_models/trainings").iterdir()} == trainings
    back = kedro_run(root, "--pipelines", "sampling")
    assert back.returncode == 0, back.stderr
    assert (root / written[1]).read_bytes() == samples


def test_edm_by_one_word(tmp_path):
    result = kedro_run(tmp_path, "--pipelines", "data_preparation,training,sampling",
                       params="formulation=edm")  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Heun" in result.stdout + result.stderr
    samples = np.load(tmp_path / "07_model_output/samples.npy")
    assert samples.std() > 10


WRONG = [
    ("optimizer=rmsprop", (), "optimizer=rmsprop: choose one of"),  # found before the run
    ("formulation=edn", (), "formulation=edn: choose one of"),
    ("sampler=flow_heun", (), "samplers.flow_heun: FlowHeun follows the straight path"),
    ("dataset=parquet,image_path=/no/such.parquet", (), "/no/such.parquet"),  # inside a node
    ("", ("--pipelines", "nowhere"), "nowhere"),
    ("", ("--runner", "ParallelRunner"), "--runner ParallelRunner: "),
]


@pytest.mark.parametrize(("params", "options", "words"), WRONG)
def test_wrong_input_is_one_line_and_harms_nothing(finished, params, options, words):
    before = fingerprints(finished)
    assert words in only_error(kedro_run(finished, *options, params=params))
    assert fingerprints(finished) == before


def test_sampling_without_a_model_says_what_to_run(tmp_path):
    error = only_error(kedro_run(tmp_path, "--pipelines", "sampling"))
    assert "kedro run --pipelines training" in error


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
    assert output.count("saved; the same command goes on from there") == 1
    assert "have not run" not in output  # what Kedro would advise
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
