"""The model in the catalog: published in one rename, loaded by the library, its facts shown."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from kedro.io import DatasetError
from safetensors.torch import save_file

from ddpm_kedro.datasets.training_results import ModelFile
from ddpm_kedro.diffusion import model as model_module
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "training" / "model.safetensors"
    path.parent.mkdir()
    spec = {"channels": 1, "height": 8}
    metadata = {"spec": json.dumps(spec), "note": "plain text"}
    save_file({"weight": torch.arange(3.0)}, path, metadata=metadata)
    return path


def dataset(tmp_path, **arguments):
    return ModelFile(filepath=str(tmp_path / "06_models" / "model.safetensors"), **arguments)


def test_saving_a_receipt_publishes_the_file(tmp_path, written):
    model = dataset(tmp_path)
    assert not model.exists()
    for _ in range(2):  # also when it was published before
        model.save(Receipt(written))
        assert (tmp_path / "06_models" / "model.safetensors").read_bytes() == written.read_bytes()
    assert [path.name for path in (tmp_path / "06_models").iterdir()] == ["model.safetensors"]
    assert model.exists()


def test_a_receipt_for_nothing_leaves_the_published_model(tmp_path, written):
    model = dataset(tmp_path)
    model.save(Receipt(written))
    before = (tmp_path / "06_models" / "model.safetensors").read_bytes()
    with pytest.raises((DatasetError, FileNotFoundError)):
        model.save(Receipt(tmp_path / "nowhere"))
    assert (tmp_path / "06_models" / "model.safetensors").read_bytes() == before
    assert len(list((tmp_path / "06_models").iterdir())) == 1


def test_loading_before_training_says_what_to_run(tmp_path):
    with pytest.raises(DatasetError) as failure:
        dataset(tmp_path).load()
    assert isinstance(failure.value.__cause__, InputError)
    assert str(failure.value.__cause__) == (
        f"no model at {tmp_path}/06_models/model.safetensors: "
        "run `kedro run --pipelines training` first"
    )


def test_loading_passes_on_which_weights_and_whom_to_trust(tmp_path, written, monkeypatch):
    asked = {}

    def load_model(path, **arguments):
        asked.update(arguments, path=path)
        return "the model"

    monkeypatch.setattr(model_module, "load_model", load_model)
    model = dataset(tmp_path, weights="raw", trusted_modules=["mine."])
    model.save(Receipt(written))
    assert model.load() == "the model"
    assert asked == {
        "path": tmp_path / "06_models" / "model.safetensors",
        "weights": "raw",
        "trusted_modules": ("mine.",),
    }


def test_the_preview_is_the_facts_in_the_file(tmp_path, written):
    model = dataset(tmp_path)
    assert model.preview() == ""
    model.save(Receipt(written))
    facts = {"spec": {"channels": 1, "height": 8}, "note": "plain text"}
    assert json.loads(model.preview()) == facts
    assert inspect.signature(model.preview).return_annotation == "JSONPreview"
