"""The last two stages on a tiny model, through the datasets that the catalog names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.runner import SequentialRunner
from torch import nn

from ddpm_kedro.datasets.arrays import NumpyFile
from ddpm_kedro.datasets.report_files import (
    DiagnosticsFile,
    JSONFile,
    MetricsFile,
    PictureFile,
    TextFile,
)
from ddpm_kedro.datasets.training_results import ModelFile
from ddpm_kedro.diffusion.model import Model, save_model
from ddpm_kedro.diffusion.model_header import content_hash
from ddpm_kedro.diffusion.settings import SamplingSettings
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.records import Records
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.framework.session import mistake_in
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.pipelines import evaluation, sampling

SAMPLER = {"type": "ddpm_kedro.diffusion.samplers.DDIM", "num_steps": 3}
FEATURES = {"type": "ddpm_kedro.evaluation.features.PrincipalComponents", "num_components": 4}


def sampling_parameters(**changes: Any) -> SamplingSettings:
    return SamplingSettings(
        **{
            "num_samples": 10,
            "num_steps": 2,
            "batch_size": 4,
            "precision": "fp32",
            "seed": 5,
            "weights": "ema",
            "grid_images": 9,
            "label": None,
            "guidance": None,
            "guidance_interval": None,
            "sampler": SAMPLER,
            "device": "cpu",
            **changes,
        }
    )


def evaluation_parameters(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings(
        **{
            "features": FEATURES,
            "max_images": None,
            "neighbour_images": 100,
            "denoising_images": 4,
            "noise_levels": 3,
            "every_kimg": None,
            "batch_size": 4,
            "precision": "fp32",
            "seed": 0,
            "device": "cpu",
            **changes,
        }
    )


def tiny_model(
    conditional: bool = False,
    classes: tuple[str, ...] = ("even", "odd"),
    *,
    provenance: dict[str, Any] | None = None,
) -> Model:
    torch.manual_seed(0)
    model = Model.create(
        backbone={
            "type": "ddpm_kedro.diffusion.backbones.CompactUNet",
            "base_channels": 8,
            "channel_mults": [1],
            "attention_levels": [],
        },
        noise_schedule={
            "type": "ddpm_kedro.diffusion.noise_schedule.CosineSchedule",
            "num_timesteps": 20,
        },
        objective={"type": "ddpm_kedro.diffusion.objective.VPrediction"},
        image_shape=(1, 8, 8),
        classes=classes,
        conditional=conditional,
        sampler=SAMPLER,
        provenance=provenance or {"optimizer": {"type": "torch.optim.SGD", "lr": 0.25}},
    )
    with torch.no_grad():  # a fresh network is silent: let it say something that labels change
        for parameter in model.network.parameters():
            parameter.add_(0.1)
    return model


def images(count: int, seed: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, np.arange(count) % 2, ("even", "odd"))


def publish_model(root: Path, **provenance: Any) -> None:
    """What training and import do: a model file with two sets of weights, and its card."""
    model = tiny_model(provenance=provenance)
    weights = model.network.state_dict()
    save_model(root / "model.safetensors", model.spec, {"ema": weights, "raw": weights})
    card = {"model": content_hash(root / "model.safetensors"), "status": "new"}
    (root / "training_card.json").write_text(json.dumps(card))


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    publish_model(tmp_path)
    return DataCatalog(
        {
            "model": ModelFile(filepath=str(tmp_path / "model.safetensors")),
            "train_images": MemoryDataset(images(30, seed=1), copy_mode="assign"),
            "test_images": MemoryDataset(images(12, seed=2), copy_mode="assign"),
            "training_log": MemoryDataset([{"step": 1, "images_seen": 128, "loss": 0.5}]),
            "sample_previews": MemoryDataset({128: make_grid(images(4, seed=3).images)}),
            "training_card": JSONFile(
                filepath=str(tmp_path / "training_card.json"), required=False
            ),
            "params:sampling": MemoryDataset(sampling_parameters()),
            "params:evaluation": MemoryDataset(evaluation_parameters()),
            "feature_store": MemoryDataset(FeatureStore(tmp_path / "features"), copy_mode="assign"),
            "records": MemoryDataset(Records(tmp_path), copy_mode="assign"),
            "samples": NumpyFile(filepath=str(tmp_path / "samples.npy"), written_by="sampling"),
            "samples_card": JSONFile(
                filepath=str(tmp_path / "samples_card.json"), written_by="sampling,evaluation"
            ),
            "sample_grid": PictureFile(filepath=str(tmp_path / "sample_grid.png")),
            "metrics": MetricsFile(filepath=str(tmp_path / "metrics.json")),
            "diagnostics": DiagnosticsFile(filepath=str(tmp_path / "diagnostics.json")),
            "report": TextFile(filepath=str(tmp_path / "report.html")),
        }
    )


def test_both_stages_write_what_the_contract_names(catalog: DataCatalog, tmp_path: Path) -> None:
    SequentialRunner().run(sampling.create_pipeline(), catalog)
    samples = np.load(tmp_path / "samples.npy")
    assert samples.dtype == np.uint8
    assert samples.shape == (10, 1, 8, 8)
    np.testing.assert_array_equal(
        samples, tiny_model().sample(10, seed=5, sampler=SAMPLER, num_steps=2)
    )
    np.testing.assert_array_equal(
        np.asarray(catalog.load("sample_grid")), np.asarray(make_grid(samples[:9]))
    )
    SequentialRunner().run(evaluation.create_pipeline(), catalog)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_samples"] == 10
    assert metrics["features"] == "pixels: 4 principal components"
    assert metrics["samples_of_even"] + metrics["samples_of_odd"] == 10
    assert all(isinstance(value, (int, float, str)) for value in metrics.values())
    diagnostics = json.loads((tmp_path / "diagnostics.json").read_text())
    stamp = diagnostics["evaluated"]["stamp"]
    assert stamp["stamp"] == metrics["stamp"]
    assert (
        (stamp["n"], stamp["reference"]) == (10, "10 held-out images") == (10, metrics["reference"])
    )
    assert (stamp["steps"], stamp["seed"], stamp["weights"]) == (2, 5, "ema")
    page = (tmp_path / "report.html").read_text()
    assert "CompactUNet trained on 30 images of 8 x 8 pixels" in page
    assert "SGD(lr=0.25)" in page
    assert "after 128 images" in page
    card = json.loads((tmp_path / "samples_card.json").read_text())
    assert card["sampler"] == {**SAMPLER, "num_steps": 2}
    assert (card["seed"], card["weights"], card["num_samples"]) == (5, "ema", 10)
    assert "samples.sampler" in page


def refusal(catalog: DataCatalog, node: str) -> str:
    with pytest.raises(InputError) as caught:
        SequentialRunner().run(evaluation.create_pipeline().only_nodes(node), catalog)
    return str(caught.value)


@pytest.fixture
def evaluated(catalog: DataCatalog) -> DataCatalog:
    SequentialRunner().run(sampling.create_pipeline() + evaluation.create_pipeline(), catalog)
    return catalog


@pytest.mark.usefixtures("evaluated")
def test_another_training_needs_other_samples(catalog: DataCatalog, tmp_path: Path) -> None:
    before = (tmp_path / "metrics.json").read_bytes()
    publish_model(tmp_path, step=8)  # other weights or another spec: another content hash
    for node in ("evaluate_samples", "write_report"):
        assert "run `kedro run --pipelines" in refusal(catalog, node)
    assert (tmp_path / "metrics.json").read_bytes() == before
    SequentialRunner().run(sampling.create_pipeline() + evaluation.create_pipeline(), catalog)


@pytest.mark.usefixtures("evaluated")
def test_other_weights_of_one_file_share_the_log_and_not_the_samples(
    catalog: DataCatalog, tmp_path: Path
) -> None:
    catalog["model"] = ModelFile(filepath=str(tmp_path / "model.safetensors"), weights="raw")
    assert "weights ema, not raw" in refusal(catalog, "evaluate_samples")
    SequentialRunner().run(sampling.create_pipeline() + evaluation.create_pipeline(), catalog)
    assert "after 128 images" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("evaluated")
def test_altered_or_unsigned_samples_are_refused(catalog: DataCatalog, tmp_path: Path) -> None:
    path = tmp_path / "samples.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "sampling,evaluation" in refusal(catalog, "evaluate_samples")
    assert "--pipelines evaluation" in refusal(catalog, "write_report")
    (tmp_path / "samples_card.json").unlink()
    with pytest.raises(DatasetError, match="--pipelines sampling,evaluation"):
        SequentialRunner().run(evaluation.create_pipeline(), catalog)


def test_a_model_from_elsewhere_has_no_log(catalog: DataCatalog, tmp_path: Path) -> None:
    (tmp_path / "training_card.json").unlink()  # the log beside it is of nobody knows what
    SequentialRunner().run(sampling.create_pipeline() + evaluation.create_pipeline(), catalog)
    page = (tmp_path / "report.html").read_text()
    assert "There is no training log of this model" in page
    assert "after 128 images" not in page


def test_a_model_with_an_infinite_argument_is_reported(
    catalog: DataCatalog, tmp_path: Path
) -> None:
    weight = {"type": "ddpm_kedro.diffusion.loss_weight.MinSNRWeight", "gamma": float("inf")}
    model = tiny_model()
    spec = replace(model.spec, loss_weight=weight)
    save_model(tmp_path / "model.safetensors", spec, {"ema": model.network.state_dict()})
    (tmp_path / "training_card.json").unlink()  # that of the model before
    SequentialRunner().run(sampling.create_pipeline() + evaluation.create_pipeline(), catalog)
    assert "MinSNRWeight(gamma=Infinity)" in (tmp_path / "report.html").read_text()


def test_evaluation_before_sampling_says_what_to_run(catalog: DataCatalog) -> None:
    with pytest.raises(DatasetError) as caught:
        SequentialRunner().run(evaluation.create_pipeline(), catalog)
    assert "run `kedro run --pipelines sampling` first" in str(mistake_in(caught.value))


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_bytes_of_samples_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model = tiny_model()
    expected = sampling.nodes.sample_images(model, sampling_parameters())[0]
    found = sampling.nodes.sample_images(model, sampling_parameters(batch_size=batch_size))[0]
    np.testing.assert_array_equal(found, expected)


def test_both_stages_compute_in_the_precision_that_auto_chooses(
    catalog: DataCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddpm_kedro.diffusion.precision.cpu_multiplies_bf16", lambda: True)
    catalog["params:sampling"] = MemoryDataset(sampling_parameters(precision="auto"))
    catalog["params:evaluation"] = MemoryDataset(evaluation_parameters(precision="auto"))
    seen: list[torch.dtype] = []
    with nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            seen.append(output.dtype) if isinstance(module, nn.Conv2d) else None
        )
    ):
        SequentialRunner().run(sampling.create_pipeline(), catalog)
        assert set(seen) == {torch.bfloat16}
        seen.clear()
        SequentialRunner().run(evaluation.create_pipeline(), catalog)
        assert set(seen) == {torch.bfloat16}


def test_a_seed_decides_the_samples_and_more_of_them_begin_alike() -> None:
    model = tiny_model()
    ten = sampling.nodes.sample_images(model, sampling_parameters())[0]
    more = sampling.nodes.sample_images(model, sampling_parameters(num_samples=13))[0]
    other = sampling.nodes.sample_images(model, sampling_parameters(seed=6))[0]
    np.testing.assert_array_equal(more[:10], ten)
    assert (other != ten).any()


def test_a_conditional_model_follows_its_label() -> None:
    model = tiny_model(conditional=True)
    turns = sampling.nodes.sample_images(model, sampling_parameters())[0]
    even = sampling.nodes.sample_images(model, sampling_parameters(label="even"))[0]
    guided = sampling.nodes.sample_images(model, sampling_parameters(guidance=3.0))[0]
    np.testing.assert_array_equal(turns[::2], even[::2])
    assert (turns[1::2] != even[1::2]).any()
    assert (guided != turns).any()


def test_guidance_may_be_limited_to_an_interval_of_noise_levels() -> None:
    model = tiny_model(conditional=True)

    def drawn(interval: list[float] | None) -> tuple[np.ndarray, dict[str, Any]]:
        asked = sampling_parameters(guidance=3.0, guidance_interval=interval, num_steps=3)
        return sampling.nodes.sample_images(model, asked)

    everywhere, card = drawn(None)
    assert card["guidance"] == 3.0
    np.testing.assert_array_equal(drawn([0, 1e9])[0], everywhere)
    plain = model.sample(10, seed=5, num_steps=3)
    np.testing.assert_array_equal(drawn([0, 1e-9])[0], plain)
    partly, card = drawn([0.2, 5])
    assert (partly != everywhere).any()
    assert (partly != plain).any()
    assert json.loads(json.dumps(card))["guidance"] == {"scale": 3.0, "interval": [0.2, 5.0]}


@pytest.mark.parametrize(
    ("classes", "label", "meant"),
    [
        (("1", "2", "3"), 1, "1"),
        (("1", "2", "3"), 3, "3"),
        (("1", "2", "3"), 0, "1"),  # no class of that name: its number
        (("01", "02", "03"), 1, "01"),  # the command line reads 01 as 1
        (("even", "odd"), 1, "odd"),
        (("even", "odd"), "odd", "odd"),
        (("1", "01", "2"), 1, "1"),
        (("1", "01", "2"), "01", "01"),
    ],
)
def test_a_label_is_a_name_before_it_is_a_number(
    classes: tuple[str, ...], label: int | str, meant: str
) -> None:
    model = tiny_model(conditional=True, classes=classes)
    drawn, _ = sampling.nodes.sample_images(model, sampling_parameters(label=label))
    expected = model.sample(10, seed=5, num_steps=2, labels=classes.index(meant))
    np.testing.assert_array_equal(drawn, expected)
    assert (drawn != model.sample(10, seed=5, num_steps=2)).any()


HEUN = {"type": "ddpm_kedro.diffusion.samplers.Heun", "num_steps": 4}


@pytest.mark.parametrize(
    ("asked", "num_steps", "drawn", "said"),
    [
        (None, None, SAMPLER, "drawing 10 images with DDIM, the model's own sampler, in 3 steps"),
        (
            None,
            2,
            SAMPLER | {"num_steps": 2},
            "with DDIM, the model's own sampler, in 2 steps (sampling.num_steps)",
        ),
        (HEUN, None, HEUN, "with Heun, as asked, in 4 steps"),
        (HEUN, 5, HEUN | {"num_steps": 5}, "with Heun, as asked, in 5 steps (sampling.num_steps)"),
        ({"eta": 1.0}, None, SAMPLER | {"eta": 1.0}, "with DDIM, as asked, in 3 steps"),
    ],
)
def test_the_model_s_own_sampler_draws_unless_another_is_asked_for(
    asked: dict[str, Any] | None,
    num_steps: int | None,
    drawn: dict[str, Any],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model = tiny_model()
    found, _ = sampling.nodes.sample_images(
        model, sampling_parameters(sampler=asked, num_steps=num_steps)
    )
    np.testing.assert_array_equal(found, model.sample(10, seed=5, sampler=drawn))
    assert said in caplog.text


def test_a_sampler_that_does_not_fit_the_model_s_schedule_is_refused_before_drawing() -> None:
    flow = {"type": "ddpm_kedro.diffusion.samplers.FlowHeun", "num_steps": 4}
    for change in ({"sampler": flow}, {"num_steps": 21}):  # the schedule has 20 levels
        with pytest.raises(InputError) as caught:
            sampling.nodes.sample_images(
                tiny_model(), sampling_parameters(**{"num_steps": None, **change})
            )
        assert "CosineSchedule" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"label": 1}, {"guidance": 2.0}])
def test_what_only_a_conditional_model_can_do_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        sampling.nodes.sample_images(tiny_model(), sampling_parameters(**change))
