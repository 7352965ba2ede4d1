"""Pictures drawn while training must not touch it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tiny_training import tiny_images, tiny_settings

from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.training.reporting import preview_path, write_preview
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec

FP32 = Precision("fp32", "cpu", "")


def make(**changes: object) -> LearningState:
    backbone = {"type": "tiny_training.TinyNetwork", "dropout": 0.5}
    settings = tiny_settings(backbone=backbone, **changes)
    torch.manual_seed(0)
    state = LearningState(Model(model_spec(tiny_images(), settings)), settings)
    state.network.train()
    with torch.no_grad():
        for average in state.ema.averages[0]:
            average.mul_(-1)
    return state


def test_training_state_is_the_same_bytes_before_and_after(tmp_path: Path) -> None:
    state = make()
    before = {name: value.clone() for name, value in state.tensors().items()}
    addresses = [parameter.data_ptr() for parameter in state.parameters]
    generator = torch.get_rng_state()
    write_preview(tmp_path / "preview.png", state, FP32)
    now = state.tensors()
    assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert addresses == [parameter.data_ptr() for parameter in state.parameters]
    assert torch.equal(generator, torch.get_rng_state())
    assert state.network.training


def test_both_sets_of_weights_are_shown_without_dropout(tmp_path: Path) -> None:
    state = make()
    for name in ("one.png", "two.png"):
        write_preview(tmp_path / name, state, FP32)
    one, two = (Image.open(tmp_path / name) for name in ("one.png", "two.png"))
    assert one.tobytes() == two.tobytes()
    half = one.width // 2 - 8
    averaged = one.crop((0, 0, half, one.height))
    raw = one.crop((one.width - half, 0, one.width, one.height))
    assert averaged.tobytes() != raw.tobytes()


def test_an_average_lends_its_values_even_if_drawing_fails() -> None:
    state = make()
    before = [parameter.detach().clone() for parameter in state.parameters]
    try:
        with state.averaged():
            assert not torch.equal(state.parameters[0], before[0])
            raise RuntimeError
    except RuntimeError:
        pass
    assert all(map(torch.equal, state.parameters, before))


def test_names_sort_by_images_seen() -> None:
    names = [preview_path(Path(), images).name for images in (900, 10_000, 2_000_000)]
    assert names == sorted(names)


def test_previews_compute_in_the_precision_given(tmp_path: Path) -> None:
    state, seen = make(), []
    state.network.entry.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    write_preview(tmp_path / "preview.png", state, Precision("bf16", "cpu", ""))
    assert set(seen) == {torch.bfloat16}


def test_a_preview_draws_no_more_at_once_than_a_step(tmp_path: Path) -> None:
    state, rows = make(micro_batch_size=1), []
    state.network.entry.register_forward_hook(lambda *call: rows.append(len(call[2])))
    write_preview(tmp_path / "preview.png", state, Precision("bf16", "cpu", ""))
    assert set(rows) == {1}


def test_each_step_of_both_sets_is_told(tmp_path: Path) -> None:
    told: list[float] = []
    write_preview(tmp_path / "preview.png", make(), FP32, told.append)
    assert told == [1.0] * 4  # 2 images in 2 steps, twice
