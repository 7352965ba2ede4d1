"""A snapshot is the values at that point, whatever happens to the tensors afterwards."""

from __future__ import annotations

import torch

from ddpm_kedro.training.store.snapshot import Snapshot


def test_later_changes_do_not_reach_it(device):
    tensor = torch.arange(12.0, device=device).reshape(3, 4)
    weight = torch.nn.Parameter(torch.ones(2, 3, 4, 4, device=device))
    weight.data = weight.data.to(memory_format=torch.channels_last)
    snapshot = Snapshot({"tensor": tensor, "turned": tensor.T, "weight": weight})
    tensor.zero_()
    with torch.no_grad():
        weight.zero_()
    copies = snapshot.ready()
    expected = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(copies["tensor"], expected)
    assert torch.equal(copies["turned"], expected.T)
    assert torch.equal(copies["weight"], torch.ones(2, 3, 4, 4))
    for copy in copies.values():
        assert copy.device.type == "cpu"
        assert copy.is_contiguous()
        assert not copy.requires_grad


def test_it_waits_for_work_that_was_queued_before_it(device):
    value = torch.ones(512, 512, device=device, dtype=torch.float64)
    for _ in range(20):
        value = value @ value / 512
    snapshot = Snapshot({"value": value})
    value.zero_()
    assert torch.equal(snapshot.ready()["value"], torch.ones(512, 512, dtype=torch.float64))
