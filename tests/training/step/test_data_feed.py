"""The order of images, and batches from any step on."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from ddpm_kedro.training.step.data_feed import DataFeed, EpochOrder

ROWS = np.array([2, 3, 5, 7, 11, 13, 17], dtype=np.int32)


def test_every_epoch_is_a_permutation_and_none_is_dropped() -> None:
    order = EpochOrder(ROWS, seed=3)
    taken = np.concatenate([order.take(4 * step, 4) for step in range(14)])  # 8 epochs of 7
    epochs = taken.reshape(8, 7)
    assert all(sorted(epoch) == ROWS.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_seeking_finds_what_reading_found() -> None:
    whole = EpochOrder(ROWS, seed=3).take(0, 60)
    for position in (0, 6, 7, 20, 31):
        assert np.array_equal(EpochOrder(ROWS, seed=3).take(position, 25), whole[position:][:25])
    assert not np.array_equal(EpochOrder(ROWS, seed=4).take(0, 60), whole)


def test_a_batch_may_be_longer_than_an_epoch() -> None:
    taken = EpochOrder(ROWS[:1], seed=0).take(2, 5)
    assert taken.tolist() == [2] * 5


def images(count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (count, 1, 2, 2)).copy(), np.arange(count, dtype=np.int64)


def feed(device: torch.device, part: slice) -> DataFeed:
    pixels, labels = images()
    order = EpochOrder(np.arange(20, dtype=np.int32), seed=1)
    return DataFeed(pixels, labels, order, batch_size=6, part=part, device=device)


def test_batches_follow_the_order_from_any_step(device: torch.device) -> None:
    batches = list(islice(feed(device, slice(0, 6)).batches(0), 9))
    for number, (pixels, labels) in enumerate(islice(feed(device, slice(0, 6)).batches(4), 5)):
        expected = batches[4 + number]
        assert pixels.dtype == torch.uint8
        assert pixels.device.type == device.type
        assert torch.equal(pixels, expected[0])
        assert torch.equal(labels, expected[1])
        assert torch.equal(pixels[:, 0, 0, 0].long(), labels)  # an image keeps its label


def test_workers_parts_make_up_the_batch(device: torch.device) -> None:
    whole, _ = next(feed(device, slice(0, 6)).batches(2))
    parts = [next(feed(device, part).batches(2))[0] for part in (slice(0, 2), slice(2, 6))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_streaming_gives_what_residing_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    resident = feed(device, slice(0, 6))
    monkeypatch.setattr("ddpm_kedro.training.step.data_feed.RESIDENT_SHARE", 0.0)
    streamed = feed(device, slice(0, 6))
    assert resident.placement != streamed.placement
    for one, other in islice(zip(resident.batches(3), streamed.batches(3), strict=True), 8):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
