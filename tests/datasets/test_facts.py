"""What datasets say that their content is, without loading it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from kedro.io import Version

from ddpm_kedro.content import content_hash
from ddpm_kedro.datasets import training_results
from ddpm_kedro.datasets.arrays import NumpyFile
from ddpm_kedro.datasets.diffusers_folder import DiffusersFolder
from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.report_files import JSONFile
from ddpm_kedro.datasets.training_results import ModelFile, PreviewFolder
from ddpm_kedro.errors import InputError

STORE = "ddpm_kedro.images.store.ImageStore"


def test_a_file_is_its_content_and_absent_is_none(tmp_path):
    dataset = NumpyFile(filepath=str(tmp_path / "below" / "a.npy"))
    assert dataset.facts() is None
    dataset.save(np.arange(3))
    before = dataset.facts()
    assert before == {"sha256": content_hash(tmp_path / "below" / "a.npy")}
    dataset.save(np.arange(3))
    os.utime(tmp_path / "below" / "a.npy", (1, 1))
    assert dataset.facts() == before
    dataset.save(np.arange(4))
    assert dataset.facts() != before


def test_a_folder_is_the_content_of_its_files(tmp_path):
    dataset = PreviewFolder(path=str(tmp_path / "previews"))
    assert dataset.facts() is None
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "preview_1.png").write_bytes(b"x")
    assert dataset.facts() == {"sha256": content_hash(tmp_path / "previews")}
    assert DiffusersFolder().facts() is None  # the user has yet to name it


def test_what_cannot_be_read_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe cannot be read: "):
        NumpyFile(filepath=str(tmp_path / "pipe")).facts()


def model_file(path: Path, header: Any) -> ModelFile:
    from safetensors.numpy import save_file

    save_file({"ema/a": np.zeros(2)}, path, metadata=header)
    return ModelFile(filepath=str(path))


def test_a_model_file_says_its_spec_too(tmp_path):
    spec = {"backbone": {"type": "mine.Network"}}
    header = {"ddpm_kedro.model": json.dumps({"spec": spec})}
    model = model_file(tmp_path / "model.safetensors", header)
    found = content_hash(tmp_path / "model.safetensors")
    assert model.facts() == {"sha256": found, "spec": spec}
    assert ModelFile(filepath=str(tmp_path / "none")).facts() is None


@pytest.mark.parametrize(
    "header", [None, {"other": "x"}, {"ddpm_kedro.model": "{"}, {"ddpm_kedro.model": "[]"}]
)
def test_a_file_that_is_no_model_of_ours_has_its_hash(tmp_path, header):
    facts = model_file(tmp_path / "model", header).facts()
    assert facts == {"sha256": content_hash(tmp_path / "model")}
    (tmp_path / "model").write_bytes(b"torn")
    torn = ModelFile(filepath=str(tmp_path / "model")).facts()
    assert torn == {"sha256": content_hash(tmp_path / "model")}


def test_no_facts_need_torch(tmp_path):
    header = {"ddpm_kedro.model": json.dumps({"spec": {"a": 1}})}
    model_file(tmp_path / "model", header)
    program = f"""
import sys
from {training_results.__name__} import ModelFile
from ddpm_kedro.datasets.handle import Handle
assert ModelFile(filepath=sys.argv[1]).facts()["spec"] == {{"a": 1}}
assert Handle(of="{STORE}", path=sys.argv[1] + "/store").facts() == {{}}
Handle(of="ddpm_kedro.Digits").facts()["sha256"]
assert not {"torch", "sklearn"} & sys.modules.keys()
"""
    source = str(Path(training_results.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    subprocess.run([sys.executable, "-c", program, tmp_path / "model"], env=environment, check=True)


def test_a_handle_is_what_its_object_says_or_a_place_to_work_in(tmp_path):
    assert Handle(of=STORE, path=str(tmp_path / "store")).facts() == {}
    assert not (tmp_path / "store").exists()
    digits = Handle(of="ddpm_kedro.Digits")
    assert digits.facts() == digits.load().facts() != {}


@pytest.mark.parametrize("root", ["{tmp_path}", "memory:///facts"])
def test_small_files_have_facts_on_any_file_system_and_of_the_version_that_is_read(root, tmp_path):
    fsspec.filesystem("memory").store.clear()
    path = f"{root.format(tmp_path=tmp_path)}/a.json"
    assert JSONFile(filepath=path).facts() is None
    JSONFile(filepath=path).save({"a": 1})
    (tmp_path / "same").write_text('{\n  "a": 1\n}\n')
    first = {"sha256": content_hash(tmp_path / "same")}
    assert JSONFile(filepath=path).facts() == first
    versioned = path.replace("a.json", "b.json")
    assert JSONFile(filepath=versioned, version=Version(None, None)).facts() is None
    for number, name in enumerate(["2026-01-01", "2026-01-02"], start=1):
        JSONFile(filepath=versioned, version=Version(None, name)).save({"a": number})
    assert JSONFile(filepath=versioned, version=Version("2026-01-01", None)).facts() == first
    assert JSONFile(filepath=versioned, version=Version(None, None)).facts() != first
