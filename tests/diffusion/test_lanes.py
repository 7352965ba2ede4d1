"""Lanes: the order of results, modes and errors across threads, and what may not be shared."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.backbones.layers import Dropout
from ddpm_kedro.diffusion.lanes import Lanes, drawing_from, is_well_known, watched


@pytest.fixture(params=[1, 2, 4])
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    with Lanes(4, request.param) as made:
        yield made


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_results_come_in_the_order_of_the_pieces(lanes: Lanes) -> None:
    def slower_first(number: int) -> int:
        time.sleep(0.02 * (number == 0))
        return number

    assert list(lanes.map(slower_first, range(6))) == list(range(6))


def test_each_lane_has_one_openmp_thread_and_the_caller_keeps_its_own(lanes: Lanes) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with lanes.alone():
            assert torch.get_num_threads() == 1
        counts = list(lanes.map(lambda number: torch.get_num_threads(), range(4)))
        assert torch.get_num_threads() == 3
        lanes.close()
        fresh: list[int] = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert fresh == [3]
    finally:
        torch.set_num_threads(before)
    assert counts == [1] * 4


def test_threads_end_with_the_block() -> None:
    with Lanes(3, 3) as lanes:
        list(lanes.map(time.sleep, [0.01] * 3))
        assert lane_threads()
    assert not lane_threads()


def test_torch_is_in_the_caller_s_modes(lanes: Lanes) -> None:
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        (half,) = lanes.map(layer, [x])
    assert half.dtype == torch.bfloat16
    (full,) = lanes.map(layer, [x])
    assert full.dtype == torch.float32
    assert full.requires_grad
    with torch.no_grad():
        (full,) = lanes.map(layer, [x])
    assert not full.requires_grad
    with torch.inference_mode():
        (full,) = lanes.map(layer, [x])
    assert full.is_inference()


def test_an_error_comes_out_when_no_lane_is_at_work(lanes: Lanes) -> None:
    at_work: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            raise ValueError("lane 0")
        at_work.append(number)
        time.sleep(0.02)
        at_work.remove(number)

    with pytest.raises(ValueError, match="lane 0"):
        list(lanes.map(work, range(8)))
    assert not at_work


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_shares_are_even_and_none_is_empty(rows: int) -> None:
    parts = Lanes(4, 1).parts(rows)
    sizes = [part.stop - part.start for part in parts]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert len(parts) == min(4, rows)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_dropout_draws_from_its_lane_s_generator() -> None:
    """Equal seeds, equal masks, whatever others draw meanwhile; the global generator stays."""
    x, before = torch.ones(64, 64), torch.get_rng_state()

    def mask(seed: int) -> Tensor:
        with drawing_from(torch.Generator().manual_seed(seed)):
            return torch.cat([Dropout(0.5)(x) for _ in range(4)])

    with Lanes(4, 4) as lanes:
        masks = list(lanes.map(mask, [0, 1, 0, 1] * 4))
    assert all(torch.equal(masks[number], masks[number % 2]) for number in range(16))
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(Dropout(0.5)(x), Dropout(0.5)(x))


class Careless(nn.Module):
    """Does in its forward pass what ``habit`` says."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.habit = habit
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)
        self.calls, self.seen = 0, []

    def forward(self, x: Tensor) -> Tensor:
        if self.habit == "statistics":
            return self.norm(x)
        if self.habit == "module":
            return self.dropout(x)
        if self.habit == "function":
            return F.dropout(x, 0.5)
        if self.habit == "attribute":
            self.calls += 1
        if self.habit == "list":
            self.seen.append(x)
        return x


HABITS = {
    "statistics": "changes its buffer norm",
    "module": "draws from torch's global random generator",
    "function": "draws from torch's global random generator",
    "attribute": "changes calls",
    "list": "changes seen",
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_lanes_would_share_is_seen_and_put_back(habit: str) -> None:
    network = Careless(habit)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    state = torch.get_rng_state()
    with watched(network) as found:
        network(torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert HABITS[habit] in found[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffers[name], value) for name, value in network.named_buffers())
    assert not is_well_known(network)


BACKBONES: list[dict[str, Any]] = [
    {"type": "CompactUNet", "base_channels": 8, "dropout": 0.2, "attention_levels": [1]},
    {"type": "DDPMUNet", "base_channels": 8, "channel_mults": [1, 2], "dropout": 0.2},
    {"type": "DDPMPlusPlus", "base_channels": 8, "channel_mults": [1, 2], "dropout": 0.2},
    {"type": "HomeworkUNet", "hidden_size": 8},
]


@pytest.mark.parametrize("option", BACKBONES, ids=lambda option: option["type"])
def test_our_networks_share_nothing_but_weights(option: dict[str, Any]) -> None:
    path = f"ddpm_kedro.diffusion.backbones.{option['type']}"
    network = build({**option, "type": path, "in_channels": 1}).train()
    generator = torch.Generator()
    with watched(network) as found, drawing_from(generator):
        network(torch.ones(2, 1, 28, 28), torch.ones(2)).sum().backward()
    assert not found
    assert is_well_known(network)
