"""Handles load as live objects, and cannot be saved."""

from __future__ import annotations

import pytest
from kedro.io import DatasetError

from ddpm_kedro.datasets.checkpoints import CheckpointStoreDataset
from ddpm_kedro.datasets.tracker import TrackerDataset
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker


def test_checkpoints_load_as_a_store_and_touch_nothing(tmp_path):
    dataset = CheckpointStoreDataset(path=str(tmp_path / "store"))
    store = dataset.load()
    assert isinstance(store, CheckpointStore)
    assert store.path == tmp_path / "store"
    assert not store.path.exists()
    assert not dataset.exists()
    store.open({"seed": 0}, {}, 1).close()
    assert dataset.exists()


def test_the_tracker_is_one_and_the_same_at_every_load():
    dataset = TrackerDataset()
    assert isinstance(dataset.load(), Tracker)
    assert dataset.load() is dataset.load()
    assert TrackerDataset().load() is not dataset.load()
    assert dataset.exists()


@pytest.mark.parametrize("dataset", [CheckpointStoreDataset(path="x"), TrackerDataset()])
def test_a_handle_cannot_be_saved(dataset):
    with pytest.raises(DatasetError, match="is a handle"):
        dataset.save("anything")
