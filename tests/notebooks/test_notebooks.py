"""The notebooks run from top to bottom, and are committed without their outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_kedro.diffusion.model import Model, save_model
from ddpm_kedro.images.imageset import ImageSet

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A model and held-out images such as a run leaves behind, only tiny and untrained."""
    torch.manual_seed(0)
    model = Model.create(
        backbone={
            "type": "ddpm_kedro.diffusion.backbones.CompactUNet",
            "base_channels": 8,
            "channel_mults": [1],
            "attention_levels": [],
        },
        noise_schedule={"type": "ddpm_kedro.diffusion.noise_schedule.CosineSchedule"},
        objective={"type": "ddpm_kedro.diffusion.objective.VPrediction"},
        image_shape=(1, 8, 8),
    )
    weights = {"ema": model.network.state_dict()}
    save_model(tmp_path / "06_models" / "model.safetensors", model.spec, weights)
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    ImageSet(images).save(tmp_path / "05_model_input" / "test_images.safetensors")
    return tmp_path


def test_there_is_one() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_its_pictures(
    path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("DATA_ROOT", str(data_root))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent / "src"))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(FOLDER))
    for cell in notebook.cells:
        if cell.cell_type == "code" and "make_grid(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs)
