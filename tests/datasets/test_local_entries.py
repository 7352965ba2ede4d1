"""What is mapped, linked or locked stays a plain local file, and says so before any work."""

from __future__ import annotations

import pytest
from kedro.io import DataCatalog, DatasetError

from ddpm_kedro.framework.session import mistake_in

D = "ddpm_kedro.datasets."
FILES = [
    f"{D}arrays.ImageSetFile",
    f"{D}arrays.NumpyFile",
    f"{D}training_results.ModelFile",
    f"{D}training_results.JSONLines",
]
FOLDERS = [f"{D}training_results.PreviewFolder", f"{D}diffusers_folder.DiffusersFolder"]
STORE = {"type": f"{D}handle.Handle", "of": "ddpm_kedro.images.store.ImageStore"}
ENTRIES = [
    *[({"type": kind}, "filepath") for kind in FILES],
    *[({"type": kind}, "path") for kind in FOLDERS],
    (STORE, "path"),
]


def refused(entry: dict) -> str:
    with pytest.raises(DatasetError) as caught:
        DataCatalog.from_config({"it": entry}, credentials={"mine": {"key": "s3cret"}})["it"]
    line = str(mistake_in(caught.value))
    assert "\n" not in line
    assert "s3cret" not in line
    return line


@pytest.mark.parametrize(("entry", "key"), ENTRIES)
def test_versions_other_file_systems_and_credentials_are_refused(entry, key, tmp_path):
    place = str(tmp_path / "it")
    assert refused({**entry, key: place, "versioned": True}).startswith(
        f"{place}: leave `versioned: true` out of its catalog entry; "
    )
    assert refused({**entry, key: "s3://bucket/it"}).startswith("s3://bucket/it: give a local path")
    line = refused({**entry, key: place, "credentials": "mine"})
    assert line.startswith(f"{place}: give a local path, without credentials; ")


@pytest.mark.parametrize(("entry", "key"), ENTRIES)
def test_a_local_url_is_a_path(entry, key, tmp_path):
    catalog = DataCatalog.from_config({"it": {**entry, key: f"file://{tmp_path}/it"}})
    assert catalog["it"]._path == tmp_path / "it"
    assert not catalog.exists("it")
    if entry is STORE:
        assert catalog.load("it").path == tmp_path / "it"


def test_a_handle_without_a_folder_is_not_versioned_either():
    tracker = {"type": f"{D}handle.Handle", "of": "ddpm_kedro.training.tracker.Tracker"}
    assert "leave `versioned: true` out" in refused({**tracker, "versioned": True})
