"""One optimizer step: its laws, its flag against what is not finite, and no word to the host."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_training import assert_same_bits, tiny_images, tiny_settings
from torch import Tensor, nn

from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.precision import Precision
from ddpm_kedro.images.pixels import normalise
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.step.training_step import LossModule, TrainingStep
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

FP32 = Precision("fp32", "cpu", "")


def make(
    settings: TrainingSettings, device: str | torch.device = "cpu", precision: str = "fp32"
) -> tuple[LearningState, TrainingStep]:
    torch.manual_seed(0)
    model = Model(model_spec(tiny_images(), settings))
    model.network.to(device)
    state = LearningState(model, settings)
    chosen = Precision(precision, torch.device(device).type, "")
    return state, TrainingStep(state, LossModule(model.denoiser), chosen, Team())


def batch(device: str | torch.device = "cpu") -> Tensor:
    return torch.from_numpy(tiny_images().images[:8]).to(device)


def take(state: LearningState, step: TrainingStep, count: int = 1, **kwargs: Any) -> None:
    for _ in range(count):
        state.set_rates()
        step(batch(state.device), None)
        state.advance()


OPTIMIZERS = ["torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.RMSprop"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_runs_where_there_are_no_values(optimizer: str) -> None:
    """On the meta device a tensor of another device, and any word to the host, raises."""
    settings = tiny_settings(optimizer={"type": optimizer, "lr": 0.1})
    state, step = make(settings, "meta")
    take(state, step, 2)
    assert all(value.device.type == "meta" for value in state.counters.values())


def test_a_device_mixup_shows_without_a_gpu() -> None:
    backbone = {"type": "tiny_training.TinyNetwork", "device_mixup": True}
    state, step = make(tiny_settings(backbone=backbone), "meta")
    with pytest.raises(RuntimeError, match=r"not on the expected device|devices"):
        take(state, step)


def test_a_word_to_the_host_shows_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss average of the code this project comes from read the loss at every step."""
    state, step = make(tiny_settings(), "meta")
    loss = step.loss.denoiser.loss

    def nosy(*arguments: Tensor) -> Tensor:
        values = loss(*arguments)
        assert float(values.detach().sum()) >= 0
        return values

    monkeypatch.setattr(step.loss.denoiser, "loss", nosy)
    with pytest.raises(RuntimeError, match=r"item\(\)"):
        take(state, step)


def test_counters_keep_no_graph_alive(device: torch.device) -> None:
    state, step = make(tiny_settings(), device)
    take(state, step, 3)
    assert not any(value.requires_grad for value in state.counters.values())
    assert all(value.grad_fn is None for value in state.counters.values())
    assert int(state.counters["loss_count"]) == 3


def test_draws_are_pixels_levels_and_normal_noise_of_the_step(device: torch.device) -> None:
    state, step = make(tiny_settings(), device)
    drawn = []
    for number in (0, 1):
        state.counters["step"].fill_(number)
        x0, t, noise, labels = step.draws_of(batch(device), None, slice(0, 8))
        levels = [values.flatten(1).sort(1).values for values in (x0, normalise(batch(device)))]
        torch.testing.assert_close(*levels, rtol=0, atol=0)  # flips move pixels, no more
        assert labels is None
        assert torch.equal(noise, normal(0, Stream.NOISE, number, step.rows, (1, 4, 4)))
        drawn.append((t, noise))
    assert not any(map(torch.equal, *drawn))


def test_the_loss_is_the_mean_over_the_batch(device: torch.device) -> None:
    state, step = make(tiny_settings(), device)
    before = copy.deepcopy(state.network)
    step(batch(device), None)
    state.counters["step"].zero_()
    x0, t, noise, _ = step.draws_of(batch(device), None, slice(0, 8))
    state.model.denoiser.network = before
    with torch.no_grad():
        expected = state.model.denoiser.loss(x0, t, noise).mean()
    assert float(state.counters["loss_sum"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_micro_batches_see_the_same_draws(micro_batch_size: int) -> None:
    """Over 60 steps with flips, t and noise the losses agree to 1e-5."""
    whole = make(tiny_settings())
    parts = make(tiny_settings(micro_batch_size=micro_batch_size))
    for _ in range(60):
        take(*whole)
        take(*parts)
        losses = [float(state.counters["loss_sum"]) for state, _ in (whole, parts)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5 * int(whole[0].step))


OURS = {"type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 8}


def in_lanes(lanes: Lanes, **changes: Any) -> tuple[LearningState, TrainingStep]:
    state, step = make(tiny_settings(**changes))
    return state, TrainingStep(state, step.loss, step.precision, step.team, lanes)


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_lanes_give_the_same_bytes_on_any_number_of_cores(micro_batch_size: int | None) -> None:
    """With dropout, four of them at a time, two, or one after the other."""
    results = []
    for threads in (1, 2, 4):
        with Lanes(4, threads) as lanes:
            state, step = in_lanes(
                lanes, backbone={**OURS, "dropout": 0.3}, micro_batch_size=micro_batch_size
            )
            take(state, step, 4)
        results.append(state.tensors())
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lanes_compute_the_step_of_the_whole_batch(
    micro_batch_size: int | None, precision: str
) -> None:
    """Up to rounding, for channels-last weights too: losses, norms and steps without clipping."""
    sgd = {"type": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
    choices = {"backbone": OURS, "optimizer": sgd, "micro_batch_size": micro_batch_size}
    state, step = make(tiny_settings(**choices), precision=precision)
    with Lanes(3, 2) as lanes:
        other, _ = make(tiny_settings(**choices), precision=precision)
        loss = LossModule(other.model.denoiser)
        split = TrainingStep(other, loss, step.precision, Team(), lanes)
        take(state, step, 5)
        take(other, split, 5)
    rounding = {"rtol": 1e-3, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 1e-3}
    for one, two in zip(state.parameters, other.parameters, strict=True):
        torch.testing.assert_close(two, one, **rounding)
        assert two.grad.stride() == two.stride()
    for name in ("loss_sum", "grad_norm"):
        torch.testing.assert_close(other.counters[name], state.counters[name], **rounding)


def test_each_lane_and_step_has_its_own_dropout() -> None:
    masks: list[bytes] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        masks.append((output == 0).numpy().tobytes())

    with Lanes(4, 2) as lanes:
        state, step = in_lanes(lanes, backbone={**OURS, "dropout": 0.5}, micro_batch_size=4)
        state.network.middle[0].dropout.register_forward_hook(note)
        take(state, step, 3)
    assert len(masks) == len(set(masks)) == 3 * 8


class Rearranged(nn.Module):
    """Its weights are channels-last, and their gradients come in another order."""

    def __init__(self, in_channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.entry = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(in_channels, 4, 3, 3))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        weight = self.weight.flatten(1).unflatten(1, self.weight.shape[1:])
        return nn.functional.conv2d(self.entry(x), weight, padding=1)


def test_gradients_lie_in_memory_as_their_parameters_do() -> None:
    """Fused optimizers walk through both in one order."""
    with Lanes(3, 2) as lanes:
        state, step = in_lanes(lanes, backbone={"type": "test_training_step.Rearranged"})
        take(state, step)
    assert any(not parameter.is_contiguous() for parameter in state.parameters)
    assert all(parameter.grad.stride() == parameter.stride() for parameter in state.parameters)


def test_parameters_without_a_gradient_stay_without_one_in_lanes() -> None:
    with Lanes(2, 2) as lanes:
        state, step = in_lanes(lanes)
        state.parameters.append(nn.Parameter(torch.ones(2)))
        take(state, step)
    assert state.parameters[-1].grad is None
    assert state.parameters[0].grad is not None


def test_workers_slices_make_up_the_batch() -> None:
    """Gradients of the parts of three workers, each a share of the global mean, add up."""
    settings = tiny_settings()
    state, step = make(settings)
    gradients = []
    for rank in range(3):
        part = Team(rank, 3).part_of(8)
        share = TrainingStep(state, step.loss, FP32, Team(rank, 3))
        x0, t, noise, _ = share.draws_of(batch()[part], None, slice(0, part.stop - part.start))
        state.optimizer.zero_grad()
        (step.loss(x0, t, noise, None).sum() / 8).backward()
        gradients.append([parameter.grad.clone() for parameter in state.parameters])
    x0, t, noise, _ = step.draws_of(batch(), None, slice(0, 8))
    state.optimizer.zero_grad()
    step.loss(x0, t, noise, None).mean().backward()
    for parameter, *parts in zip(state.parameters, *gradients, strict=True):
        torch.testing.assert_close(sum(parts), parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_that_is_not_finite_is_skipped(
    optimizer: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, step = make(tiny_settings(optimizer={"type": optimizer, "lr": 0.1}), device)
    take(state, step, 2)
    weights = [parameter.detach().clone() for parameter in state.parameters]
    moments = {name: value.clone() for name, value in state.tensors().items() if "optim" in name}

    loss = step.loss.denoiser.loss
    monkeypatch.setattr(step.loss.denoiser, "loss", lambda *arguments: loss(*arguments) * torch.nan)
    take(state, step, 2)
    assert all(map(torch.equal, weights, state.parameters))
    now = state.tensors()
    assert all(torch.equal(value, now[name]) for name, value in moments.items())
    assert int(state.counters["skipped"]) == int(state.counters["skipped_in_row"]) == 2
    assert int(state.counters["loss_count"]) == 2
    assert torch.isfinite(state.counters["loss_sum"])

    monkeypatch.setattr(step.loss.denoiser, "loss", loss)
    take(state, step)
    assert int(state.counters["skipped"]) == 2
    assert int(state.counters["skipped_in_row"]) == 0
    assert not all(map(torch.equal, weights, state.parameters))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_flag_on_the_device_does_what_the_host_would(optimizer: str) -> None:
    """The way that accelerators take for any optimizer, tried on the CPU."""
    settings = tiny_settings(optimizer={"type": optimizer, "lr": 0.1})
    results = []
    for is_finite in (False, True):
        state, step = make(settings)
        take(state, step, 2)
        for parameter in state.parameters:
            parameter.grad = torch.full_like(parameter, 0.5 if is_finite else torch.nan)
        before = {name: value.clone() for name, value in state.tensors().items()}
        gradients = [parameter.grad for parameter in state.parameters]
        step._update_by_flag(torch.tensor(is_finite), gradients)
        results.append((before, state.tensors()))
    (kept, same), (old, new) = results
    assert all(torch.equal(kept[name], same[name]) for name in kept)
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_clipping_bounds_the_gradient(device: torch.device) -> None:
    sgd = {"type": "torch.optim.SGD", "lr": 1.0}
    constant = {"type": "ddpm_kedro.training.lr_schedule.Constant"}
    state, step = make(tiny_settings(optimizer=sgd, lr_schedule=constant, clip_norm=1e-3), device)
    before = [parameter.detach().clone() for parameter in state.parameters]
    take(state, step)
    moved = torch.stack(
        [(now.detach() - then).norm() for now, then in zip(state.parameters, before, strict=True)]
    ).norm()
    assert float(state.counters["grad_norm"]) > 1e-2
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_clipping_leaves_a_small_gradient_alone(device: torch.device) -> None:
    sgd = {"type": "torch.optim.SGD", "lr": 1.0}
    constant = {"type": "ddpm_kedro.training.lr_schedule.Constant"}
    starts = []
    for clip_norm in (1e6, None):
        state, step = make(
            tiny_settings(optimizer=sgd, lr_schedule=constant, clip_norm=clip_norm), device
        )
        take(state, step)
        starts.append(state.parameters)
    assert all(map(torch.equal, *starts))


def test_half_precision_gradients_point_the_same_way(device: torch.device) -> None:
    """bf16 autocast against fp32 on one batch: loss within 1%, gradients nearly parallel."""
    results = []
    for precision in ("fp32", "bf16"):
        state, step = make(tiny_settings(clip_norm=None), device, precision)
        step(batch(device), None)
        gradient = torch.cat([parameter.grad.flatten() for parameter in state.parameters])
        results.append((float(state.counters["loss_sum"]), gradient))
    (loss, gradient), (half_loss, half_gradient) = results
    assert half_loss == pytest.approx(loss, rel=0.01)
    assert torch.nn.functional.cosine_similarity(gradient, half_gradient, dim=0) > 0.999


def test_the_loss_scale_backs_off_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    state, step = make(tiny_settings(precision="fp16"), precision="fp16")
    monkeypatch.setattr("ddpm_kedro.training.step.training_step.SCALE_GROWTH_STEPS", 3)
    scale = state.counters["loss_scale"]
    scale.fill_(8.0)
    good = step.loss.denoiser.loss
    monkeypatch.setattr(step.loss.denoiser, "loss", lambda *arguments: good(*arguments) * torch.inf)
    take(state, step)
    assert float(scale) == 4.0
    monkeypatch.setattr(step.loss.denoiser, "loss", good)
    take(state, step, 3)
    assert float(scale) == 8.0
    assert int(state.counters["skipped"]) == 1


def test_the_loss_scale_leaves_the_gradient_as_it_is() -> None:
    plain, scaled = make(tiny_settings()), make(tiny_settings(), precision="fp16")
    take(*plain)
    take(*scaled)
    norms = [float(state.counters["grad_norm"]) for state, _ in (plain, scaled)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_labels_are_dropped_row_by_row() -> None:
    settings = tiny_settings(conditional=True, label_dropout=0.5)
    state, step = make(settings)
    labels = torch.zeros(8, dtype=torch.int64)
    given = torch.stack([_labels_of(state, step, labels, number) for number in range(200)])
    assert set(given.unique().tolist()) == {0, 3}  # class 0, or the null label
    share = (given == 3).float()
    assert share.mean() == pytest.approx(0.5, abs=0.05)
    assert 0 < share.mean(1).min() + share.mean(1).max() < 2  # not whole batches
    assert share.std(1).mean() > 0.3


def _labels_of(state: LearningState, step: TrainingStep, labels: Tensor, number: int) -> Tensor:
    state.counters["step"].fill_(number)
    return step.draws_of(batch(), labels, slice(0, 8))[3]
