"""The catalog's handle on prepared images."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from ddpm_kedro.datasets.image_store import ImageStoreDataset
from ddpm_kedro.images.store import ImageStore


def test_loads_as_a_live_handle(tmp_path: Path) -> None:
    dataset = ImageStoreDataset(path=str(tmp_path / "store"))
    store = dataset.load()
    assert isinstance(store, ImageStore)
    assert store.path == tmp_path / "store"
    assert not dataset.exists()
    assert not (tmp_path / "store").exists()


def test_nothing_is_saved_to_a_handle(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="handle"):
        ImageStoreDataset(path=str(tmp_path)).save(1)
