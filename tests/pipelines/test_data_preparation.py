"""The preparing stage through a catalog, as `kedro run --pipelines data_preparation` runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

from ddpm_kedro.datasets.arrays import ImageSetFile
from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.report_files import JSONFile
from ddpm_kedro.parameters import PreparationParameters
from ddpm_kedro.pipelines.data_preparation import create_pipeline

SOURCE = {"type": "ddpm_kedro.images.Digits"}
PREPARATION = {
    "source": SOURCE,
    "image_size": None,
    "channels": None,
    "test_fraction": 0.1,
    "max_images": None,
    "max_unreadable": 0.0,
}


def _catalog(root: Path, preparation: dict[str, Any]) -> DataCatalog:
    catalog = DataCatalog(
        {
            "raw_images": Handle(of=preparation["source"]),
            "image_store": Handle(
                of="ddpm_kedro.images.store.ImageStore", path=str(root / "store")
            ),
            "train_images": ImageSetFile(filepath=str(root / "train.safetensors")),
            "test_images": ImageSetFile(filepath=str(root / "test.safetensors")),
            "data_card": JSONFile(filepath=str(root / "data_card.json")),
        }
    )
    catalog["params:preparation"] = PreparationParameters(**preparation)
    return catalog


def test_stage_writes_both_splits_and_the_card(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, PREPARATION)
    SequentialRunner().run(create_pipeline(), catalog)
    train, test, card = (
        catalog.load(name) for name in ("train_images", "test_images", "data_card")
    )
    assert len(train) + len(test) == 1797
    assert train.image_shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    assert card["splits"]["train"]["content_hash"] == train.content_hash
    assert sum(card["splits"]["test"]["images_per_class"].values()) == len(test)


def test_second_run_publishes_what_the_first_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SequentialRunner().run(create_pipeline(), _catalog(tmp_path, PREPARATION))
    first = json.loads((tmp_path / "data_card.json").read_text())
    (tmp_path / "train.safetensors").unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr("ddpm_kedro.images.preparation.decode", refuse)
    catalog = _catalog(tmp_path, PREPARATION)
    SequentialRunner().run(create_pipeline(), catalog)
    assert json.loads((tmp_path / "data_card.json").read_text()) == first
    assert catalog.load("train_images").content_hash == first["splits"]["train"]["content_hash"]


def test_what_was_altered_in_place_is_prepared_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SequentialRunner().run(create_pipeline(), _catalog(tmp_path, PREPARATION))
    published = tmp_path / "train.safetensors"
    good = published.read_bytes()
    with open(published, "r+b") as file:  # the store's file is the same one
        file.seek(-5000, os.SEEK_END)
        file.write(b"\x55" * 100)
    SequentialRunner().run(create_pipeline(), _catalog(tmp_path, PREPARATION))
    assert published.read_bytes() == good
    assert caplog.text.count("preparing these images again") == 1


def test_another_choice_replaces_what_is_published(tmp_path: Path) -> None:
    SequentialRunner().run(create_pipeline(), _catalog(tmp_path, PREPARATION))
    catalog = _catalog(tmp_path, {**PREPARATION, "image_size": 16, "max_images": 64})
    SequentialRunner().run(create_pipeline(), catalog)
    assert catalog.load("train_images").image_shape == (1, 16, 16)
    assert len(list((tmp_path / "store").glob("[!.]*"))) == 2


def test_wrong_source_leaves_earlier_outputs(tmp_path: Path) -> None:
    SequentialRunner().run(create_pipeline(), _catalog(tmp_path, PREPARATION))
    before = (tmp_path / "train.safetensors").read_bytes()
    source = {"type": "ddpm_kedro.images.ImageFolder", "path": str(tmp_path / "none")}
    catalog = _catalog(tmp_path, {**PREPARATION, "source": source})
    with pytest.raises(ValueError, match="none: No such file"):
        SequentialRunner().run(create_pipeline(), catalog)
    assert (tmp_path / "train.safetensors").read_bytes() == before
