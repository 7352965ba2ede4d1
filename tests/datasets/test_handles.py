"""Handles load as live objects, and cannot be saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.errors import InputError
from ddpm_kedro.images import Digits, ImageFolder
from ddpm_kedro.images.store import ImageStore
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker

CHECKPOINTS = "ddpm_kedro.training.store.checkpoint_store.CheckpointStore"
IMAGES = "ddpm_kedro.images.store.ImageStore"
TRACKER = "ddpm_kedro.training.tracker.Tracker"


@pytest.mark.parametrize(("path", "kind"), [(CHECKPOINTS, CheckpointStore), (IMAGES, ImageStore)])
def test_stores_load_and_touch_nothing(path, kind, tmp_path):
    dataset = Handle(of=path, path=str(tmp_path / "store"))
    store = dataset.load()
    assert isinstance(store, kind)
    assert store.path == tmp_path / "store"
    assert not store.path.exists()
    assert not dataset.exists()
    store.path.mkdir()
    assert dataset.exists()


def test_the_tracker_is_one_and_the_same_at_every_load():
    dataset = Handle(of=TRACKER)
    assert isinstance(dataset.load(), Tracker)
    assert dataset.load() is dataset.load()
    assert Handle(of=TRACKER).load() is not dataset.load()
    assert dataset.exists()


def test_a_mistyped_handle_is_one_line():
    with pytest.raises(DatasetError) as refused:
        Handle(of="ddpm_kedro.images.store.ImageShop", path="x").load()
    assert isinstance(refused.value.__cause__, InputError)
    assert "has no ImageShop" in str(refused.value.__cause__)


@pytest.mark.parametrize(
    "dataset",
    [Handle(of=CHECKPOINTS, path="x"), Handle(of=TRACKER), Handle(of={"type": "a.B"})],
)
def test_a_handle_cannot_be_saved(dataset):
    with pytest.raises(DatasetError, match="is a handle"):
        dataset.save("anything")


def test_option_becomes_a_source(tmp_path: Path) -> None:
    assert isinstance(Handle(of={"type": "ddpm_kedro.images.Digits"}).load(), Digits)
    option = {"type": "ddpm_kedro.images.ImageFolder", "path": str(tmp_path)}
    source = Handle(of=option, metadata={"kedro-viz": {}}).load()
    assert isinstance(source, ImageFolder)
    assert source.path == str(tmp_path)
