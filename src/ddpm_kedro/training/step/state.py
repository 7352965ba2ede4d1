"""Everything in training that changes from step to step, in one list, saved and restored whole."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_kedro.construction import build, locate
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.errors import InputError
from ddpm_kedro.training.lr_schedule import LRSchedule, is_torch_scheduler
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.ema import EMA
from ddpm_kedro.training.store.checkpoint import Checkpoint

INITIAL_LOSS_SCALE = 2.0**16


class LearningState:
    """Weights, their averages, the optimizer, the rate, the counters, and where time stands.

    Random numbers are not part of it: they are functions of (seed, step, stream). The network of
    `model` is on the device already, in its final memory format. `step` and `images_seen` count
    over all workers, skipped updates too. `counters` are 0-dim tensors on the device, changed
    without a word to the host.
    """

    def __init__(self, model: Model, settings: TrainingSettings) -> None:
        self.model, self.network, self.settings = model, model.network, settings
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.device = device = self.parameters[0].device
        self.step = self.images_seen = 0
        self.optimizer = build_optimizer(settings.optimizer, self.parameters, device)
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self._schedule: LRSchedule | None = None
        if is_torch_scheduler(settings.lr_schedule):
            self.scheduler = build(settings.lr_schedule, self.optimizer)
        else:
            self._schedule = build(settings.lr_schedule)
        halflives = [1000 * halflife for halflife in settings.ema.halflives_kimg]
        self.ema = EMA(self.parameters, halflives, settings.ema.warmup_ratio)
        count = partial(torch.zeros, (), dtype=torch.int64, device=device)
        real = partial(torch.tensor, dtype=torch.float32, device=device)
        sum_dtype = torch.float32 if device.type == "mps" else torch.float64
        self.counters = {
            "step": count(),
            "loss_sum": real(0.0, dtype=sum_dtype),  # these two since the last record
            "loss_count": count(),
            "grad_norm": real(0.0),  # of the last step
            "skipped": count(),
            "skipped_in_row": count(),
            "loss_scale": real(INITIAL_LOSS_SCALE),  # these two for fp16
            "good_steps": count(),
        }

    @property
    def lr(self) -> float | Tensor:
        """The learning rate of the next step (of the optimizer's first group).

        A tensor where a scheduler of torch's moves it on the device: reading it would be a wait.
        """
        if self._schedule is None:
            rate = self.optimizer.param_groups[0]["lr"]
            return rate.clone() if isinstance(rate, Tensor) else float(rate)
        factor = self._schedule.factor(self.images_seen, self.settings.budget_images)
        return self._base_rates[0] * factor

    def set_rates(self) -> None:
        """Give the optimizer the learning rate of the step that comes."""
        if self._schedule is None:
            return
        factor = self._schedule.factor(self.images_seen, self.settings.budget_images)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            if isinstance(group["lr"], Tensor):  # a CUDA graph reads it from the device
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor

    def constants(self) -> list[dict[str, Any]]:
        """The optimizer's numbers beside its rate; a schedule of torch's may move these too."""
        groups = self.optimizer.param_groups
        return [{k: group[k] for k in ("momentum", "betas") if k in group} for group in groups]

    def advance(self) -> None:
        """Count the step whose update was just queued."""
        self.ema.update(self.images_seen, self.settings.batch_size)
        self.step += 1
        self.images_seen += self.settings.batch_size
        if self.scheduler is not None:
            self.scheduler.step()

    def clear_loss(self) -> None:
        """Start the mean loss of the next record."""
        self.counters["loss_sum"].zero_()
        self.counters["loss_count"].zero_()

    @contextmanager
    def averaged(self, index: int = 0) -> Iterator[None]:
        """Put average number `index` in the network's place; nothing is copied or changed."""
        raw = [parameter.data for parameter in self.parameters]
        try:
            for parameter, values in zip(self.parameters, self.ema.averages[index], strict=True):
                parameter.data = values
            yield
        finally:
            for parameter, values in zip(self.parameters, raw, strict=True):
                parameter.data = values

    def weight_sets(self) -> dict[str, dict[str, Tensor]]:
        """All sets of weights for a model file, by name."""
        sets = {"raw": contiguous(self.network)}
        for index, name in enumerate(self.settings.ema.names):
            with self.averaged(index):
                sets[name] = contiguous(self.network)
        return sets

    def tensors(self) -> dict[str, Tensor]:
        """Every stateful tensor by name, as it stands (not a copy)."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        for index, average in enumerate(self.ema.averages):
            tensors |= {f"ema/{index}/{number}": value for number, value in enumerate(average)}
        for index, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
        return tensors | {f"counters/{name}": value for name, value in self.counters.items()}

    def facts(self) -> dict[str, Any]:
        """Everything stateful that is no tensor."""
        plain = {
            str(index): {k: v for k, v in values.items() if not isinstance(v, Tensor)}
            for index, values in self.optimizer.state_dict()["state"].items()
        }
        groups = [_scheduled_values(group) for group in self.optimizer.param_groups]
        scheduler = None if self.scheduler is None else _plain_state(self.scheduler)
        return {"optimizer": plain, "groups": groups, "scheduler": scheduler}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the state that was saved; an InputError says that it holds other tensors than this
        network and optimizer."""
        tensors = checkpoint.tensors
        try:
            self.network.load_state_dict(under(tensors, "network/"))
            for index, average in enumerate(self.ema.averages):
                for number, value in enumerate(average):
                    value.copy_(tensors[f"ema/{index}/{number}"])
            for name, value in self.counters.items():
                value.copy_(tensors[f"counters/{name}"])
            self._restore_optimizer(tensors, checkpoint.facts)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{checkpoint.path}: does not fit this training ({error}); training.restart=true "
                "starts over"
            ) from error
        self.step, self.images_seen = checkpoint.step, checkpoint.images_seen

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        state: dict[int, dict[str, Any]] = {
            int(index): dict(values) for index, values in facts["optimizer"].items()
        }
        for name, value in under(tensors, "optimizer/").items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = laid_out_as(self.parameters[int(index)], value)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(facts["scheduler"])
        for group, values in zip(self.optimizer.param_groups, facts["groups"], strict=True):
            group |= {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def build_optimizer(
    option: Mapping[str, Any], parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of an option, fused into one kernel where its type can be; an InputError says
    that it is none, or calls the loss by itself, or refuses its arguments."""
    found = locate(option["type"])
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        raise InputError(f"optimizer: {option['type']} is not a torch.optim.Optimizer")
    if issubclass(found, torch.optim.LBFGS):
        raise InputError(f"optimizer: {option['type']} needs a closure; choose another")
    known = inspect.signature(found).parameters
    extra = {}
    if not {"fused", "foreach", "differentiable"} & set(option):
        refuses = device.type == "cuda" and found in _NOT_FUSED_ON_CUDA
        if "fused" in known and device.type in ("cpu", "cuda") and not refuses:
            extra["fused"] = True
        elif "foreach" in known and device.type == "cuda":
            extra["foreach"] = True
    if device.type == "cuda" and "capturable" in known and "capturable" not in option:
        extra["capturable"] = True  # its step counter stays on the device
    return build(option, parameters, **extra)


# Until torch 2.15 it took the argument and refused the first step.
_NOT_FUSED_ON_CUDA = () if torch.__version__ >= "2.15" else (torch.optim.Adagrad,)


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    """Copies of a network's weights and buffers on the CPU, by name."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, by the rest of their names."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A copy of `value` with the strides of `parameter`: fused optimizers walk through both in
    memory order, and a contiguous moment of channels-last weights would be that of others."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _scheduled_values(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a schedule of torch may change in an optimizer's group."""
    values = {key: group[key] for key in ("lr", "momentum", "betas") if key in group}
    return {key: float(v) if isinstance(v, Tensor) else v for key, v in values.items()}


def _plain_state(scheduler: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """The part of the scheduler's state that JSON holds: counts and rates. The rest (functions,
    counters keyed by number) is configuration, which building it again brings back."""
    state = {}
    for key, value in scheduler.state_dict().items():
        with suppress(TypeError):
            if json.loads(json.dumps(value)) == value:
                state[key] = value
    return state
