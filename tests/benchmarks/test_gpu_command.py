"""The command for a GPU, end to end with small sizes: on a CPU, on a GPU that computes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
GPU = str(ROOT / "benchmarks" / "gpu.py")
PARTS = {"tests", "kedro", "step", "sampling", "profile", "step-512", "step-peers",
         "step-homework", "homework", "long"}  # fmt: skip
ABSENT = ("kedro", "pydantic", "omegaconf", "diffusers")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(60):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def rehearse(photos: Path, *arguments: str, on: tuple[str, ...] = (), **variables: str) -> str:
    """The command's output; what it keeps goes beside the photos."""
    command = [sys.executable, *on, GPU, "--tiny", "--photos", str(photos), "--work",
               str(photos.parent / "work"), *arguments]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def outcomes(photos: Path) -> dict[str, str]:
    files = (photos.parent / "work" / "results").glob("gpu_*.json")
    results = {file.stem.removeprefix("gpu_"): json.loads(file.read_text()) for file in files}
    return {name: result["outcome"] for name, result in results.items()}


def test_every_part_ends_on_a_cpu_and_is_not_repeated(photos: Path) -> None:
    said = rehearse(photos)
    assert outcomes(photos) == dict.fromkeys(PARTS, "done"), said
    assert "killed, resumed, report written" in said
    assert rehearse(photos).count("done before") == len(PARTS)


def test_what_is_missing_is_named_and_the_rest_is_done(photos: Path) -> None:
    blocked = photos.parent / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    )
    only = ["--only", "kedro", "step", "homework", "long"]
    said = rehearse(photos, *only, PYTHONPATH=str(blocked))
    done = outcomes(photos)
    assert done == {"kedro": "left out", "step": "done", "homework": "done", "long": "done"}, said
    assert "needs kedro, omegaconf, pydantic" in said
    assert "not installed, left out: diffusers" in said


@pytest.mark.skipif(torch.version.cuda is None, reason="a build of torch without CUDA")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_parts_end_on_the_null_gpu(photos: Path) -> None:
    only = ["step", "sampling", "profile", "homework", "long"]
    fake = str(ROOT / "tests" / "null_gpu" / "fake_cuda.py")
    said = rehearse(photos, "--only", *only, on=(fake,))
    assert outcomes(photos) == dict.fromkeys(only, "done"), said
