"""Trainings that version 0.1.0 left in ``earlier/``, before modules and names moved, go on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import last_tensors, run

from ddpm_kedro.diffusion.model import load_model
from ddpm_kedro.files import sha256_of

EARLIER = Path(__file__).with_name("earlier")
# Made with `lanes=1` by run_until(folder, 6), and by run(folder, **FLOW)
FLOW = {
    "noise_schedule": {"type": "ddpm_kedro.FlowSchedule"},
    "objective": {"type": "ddpm_kedro.FlowVelocity"},
    "sampler": {"type": "ddpm_kedro.FlowEuler", "num_steps": 2},
    "keep_checkpoints": 1,
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "store"))


def test_a_finished_training_is_found_under_its_new_names(store, caplog):
    caplog.set_level(logging.INFO)
    (finished,) = store.glob("*/model.safetensors")
    before = sha256_of(finished)
    receipts = run(store, lanes=1, **FLOW)
    assert "is already done: 128 images seen" in caplog.text
    assert receipts.model.path == finished
    assert sha256_of(finished) == before
    assert "changed since" not in caplog.text


def test_an_interrupted_training_goes_on_to_the_same_end(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    resumed = last_tensors(run(store, lanes=1))
    assert "resumes at step 6" in caplog.text
    undisturbed = last_tensors(run(tmp_path / "fresh", lanes=1))
    assert resumed.keys() == undisturbed.keys()
    for name, value in undisturbed.items():  # not bit for bit: the first steps were another CPU's
        torch.testing.assert_close(resumed[name], value, rtol=1e-3, atol=1e-5)


def test_a_model_file_draws(store):
    (path,) = store.glob("*/model.safetensors")
    model = load_model(path, trusted_modules=("tiny_training",))
    assert model.sample(2, seed=1, progress=False).shape == (2, 1, 4, 4)
    assert model.spec.sampler["type"] == "ddpm_kedro.diffusion.samplers.FlowEuler"
