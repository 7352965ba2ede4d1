"""Export and import as pipelines: out and back gives the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from kedro.runner import SequentialRunner

from ddpm_kedro.datasets.diffusers_folder import DiffusersFolder
from ddpm_kedro.datasets.report_files import JSONFile
from ddpm_kedro.datasets.training_results import ModelFile
from ddpm_kedro.diffusion.model import Model, save_model
from ddpm_kedro.evaluation.cards import has_training_log
from ddpm_kedro.pipelines import export_diffusers, import_diffusers


def test_out_and_back_gives_the_same_images(tmp_path: Path) -> None:
    model = Model.create(
        backbone={
            "type": "ddpm_kedro.diffusion.backbones.DDPMUNet",
            "base_channels": 8,
            "channel_mults": [1, 2],
            "blocks_per_level": 1,
            "num_groups": 4,
        },
        noise_schedule={"type": "ddpm_kedro.diffusion.noise_schedule.CosineSchedule"},
        objective={"type": "ddpm_kedro.diffusion.objective.VPrediction"},
        image_shape=(1, 8, 8),
        sampler={"type": "ddpm_kedro.diffusion.samplers.DDIM", "num_steps": 3},
    )
    torch.manual_seed(0)
    for parameter in model.network.parameters():  # fresh ones are zero where it matters
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    save_model(tmp_path / "trained", model.spec, {"ema": model.network.state_dict()})
    folder = str(tmp_path / "exported")
    SequentialRunner().run(
        export_diffusers.create_pipeline(),
        DataCatalog(
            {
                "model": ModelFile(filepath=str(tmp_path / "trained")),
                "diffusers_export": DiffusersFolder(path=folder),
            }
        ),
    )
    imported = ModelFile(filepath=str(tmp_path / "06_models" / "model.safetensors"))
    card = JSONFile(filepath=str(tmp_path / "training_card.json"))
    catalog = DataCatalog(
        {"diffusers_import": DiffusersFolder(path=folder), "model": imported, "training_card": card}
    )
    catalog["params:data_root"] = str(tmp_path)
    SequentialRunner().run(import_diffusers.create_pipeline(), catalog)
    images = imported.load().sample(4, num_steps=3)
    assert np.array_equal(images, model.sample(4))
    # A report of it does without a training log
    assert not has_training_log(card.load(), imported.load().identity["model"])


def test_a_folder_that_nobody_named_is_asked_for() -> None:
    with pytest.raises(DatasetError, match="import_path"):
        DiffusersFolder(path=None).load()
    assert not DiffusersFolder(path=None).exists()
