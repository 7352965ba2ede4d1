"""A model says the same in diffusers' hands, and one of theirs says the same in ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.interchange import (
    DiffusersModel,
    from_diffusers,
    read_folder,
    to_diffusers,
    write_folder,
)
from ddpm_kedro.diffusion.interchange.scheduler import export_scheduler, import_scheduler
from ddpm_kedro.diffusion.model import Model, load_model, save_model
from ddpm_kedro.diffusion.noise import Stream, normal
from ddpm_kedro.diffusion.noise_schedule import LinearSchedule
from ddpm_kedro.diffusion.objective import EpsilonPrediction
from ddpm_kedro.diffusion.samplers import DDIM, Ancestral, Sampler
from ddpm_kedro.diffusion.samplers.thresholding import (
    DynamicThreshold,
    StaticThreshold,
    Threshold,
)
from ddpm_kedro.errors import InputError

BACKBONES = "ddpm_kedro.diffusion.backbones"
SCHEDULES = "ddpm_kedro.diffusion.noise_schedule"
OBJECTIVES = "ddpm_kedro.diffusion.objective"
SAMPLERS = "ddpm_kedro.diffusion.samplers"
LINEAR = {"type": f"{SCHEDULES}.LinearSchedule"}
EPSILON = {"type": f"{OBJECTIVES}.EpsilonPrediction"}
TINY = {
    "type": f"{BACKBONES}.DDPMUNet",
    "base_channels": 16,
    "channel_mults": [1, 2, 2],
    "blocks_per_level": 1,
    "num_groups": 8,
}


def model(**options: Any) -> Model:
    """A tiny model whose every weight is random."""
    made = Model.create(
        **{
            "backbone": TINY,
            "noise_schedule": LINEAR,
            "objective": EPSILON,
            "image_shape": (3, 16, 16),
            "sampler": {"type": f"{SAMPLERS}.DDIM", "num_steps": 20},
            **options,
        }
    )
    torch.manual_seed(0)
    for parameter in made.network.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.05)
    made.network.eval()
    return made


def theirs(**options: Any) -> nn.Module:
    """A tiny UNet2DModel laid out like google/ddpm-cifar10-32, with random weights."""
    unet = pytest.importorskip("diffusers").UNet2DModel
    torch.manual_seed(0)
    return unet(
        **{
            "sample_size": 16,
            "block_out_channels": (16, 32),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
            "norm_num_groups": 8,
            "attention_head_dim": None,
            **options,
        }
    ).eval()


def inputs(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, channels, 16, 16, generator=generator), torch.tensor([0.0, 7.0, 999.0])


class TestAgainstDiffusers:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"attention_levels": [0, 2], "blocks_per_level": 2},
            {"channels_per_head": 8},
            {"channels_per_head": 16, "channel_mults": [1, 2, 1]},
            {"dropout": 0.3},
        ],
    )
    def test_exported_network_answers_the_same(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        diffusers = pytest.importorskip("diffusers")
        ours = model(backbone={**TINY, **options})
        write_folder(tmp_path / "export", to_diffusers(ours))
        loaded = diffusers.UNet2DModel.from_pretrained(tmp_path / "export", subfolder="unet")
        x, t = inputs()
        with torch.no_grad():
            torch.testing.assert_close(
                loaded.eval()(x, t).sample, ours.network(x, t), rtol=1e-5, atol=1e-5
            )
        assert loaded.config.dropout == options.get("dropout", 0.1)

    def test_exported_conditional_network_answers_the_same(self, tmp_path: Path) -> None:
        diffusers = pytest.importorskip("diffusers")
        ours = model(classes=("a", "b"), conditional=True)
        write_folder(tmp_path / "export", to_diffusers(ours))
        loaded = diffusers.UNet2DModel.from_pretrained(tmp_path / "export", subfolder="unet").eval()
        x, t = inputs()
        labels = torch.tensor([0, 1, 2])  # the last is no class
        with torch.no_grad():
            torch.testing.assert_close(
                loaded(x, t, labels).sample, ours.network(x, t, labels), rtol=1e-5, atol=1e-5
            )

    @pytest.mark.parametrize(
        "options", [{}, {"attention_head_dim": 8}, {"in_channels": 1, "out_channels": 1}]
    )
    def test_imported_network_answers_the_same(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        diffusers = pytest.importorskip("diffusers")
        unet = theirs(**options)
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "folder")
        spec, weights = from_diffusers(read_folder(tmp_path / "folder"))
        save_model(tmp_path / "model.safetensors", spec, {"ema": weights})
        ours = load_model(tmp_path / "model.safetensors")
        x, t = inputs(unet.config.in_channels)
        with torch.no_grad():
            torch.testing.assert_close(ours.network(x, t), unet(x, t).sample, rtol=1e-5, atol=1e-5)
        assert ours.spec.image_shape == (unet.config.in_channels, 16, 16)

    def test_the_published_layout_is_ours_weight_by_weight(self) -> None:
        pytest.importorskip("diffusers")
        with torch.device("meta"):
            unet = theirs(
                sample_size=32,
                block_out_channels=(128, 256, 256, 256),
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
                norm_num_groups=32,
                dropout=0.1,
            )
        pipeline = DiffusersModel(
            "DDPMPipeline",
            unet.config,
            {name: torch.zeros(value.shape) for name, value in unet.state_dict().items()},
            {
                "_class_name": "DDPMScheduler",
                "_diffusers_version": "0.1.1",
                "beta_end": 0.02,
                "beta_schedule": "linear",
                "beta_start": 0.0001,
                "clip_sample": True,
                "num_train_timesteps": 1000,
                "trained_betas": None,
                "variance_type": "fixed_large",
            },
        )
        spec, weights = from_diffusers(pipeline)
        assert spec.build("sampler").variance == "large"
        assert sum(value.numel() for value in weights.values()) == 35_746_307
        assert spec.backbone["channel_mults"] == [1, 2, 2, 2]
        assert spec.backbone["attention_levels"] == [1]

    @pytest.mark.parametrize(
        ("schedule", "objective", "spacing"),
        [
            ("LinearSchedule", "EpsilonPrediction", "leading"),
            ("LinearSchedule", "X0Prediction", "trailing"),
            ("CosineSchedule", "VPrediction", "trailing"),
            ("CosineSchedule", "EpsilonPrediction", "trailing"),
            ("SigmoidSchedule", "VPrediction", "leading"),
        ],
    )
    def test_ddim_images_are_the_same(
        self, tmp_path: Path, schedule: str, objective: str, spacing: str
    ) -> None:
        x, expected = self.ddim(tmp_path, schedule, objective, spacing, "static")
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)

    def test_ddim_images_are_the_same_without_thresholding(self, tmp_path: Path) -> None:
        x, expected = self.ddim(tmp_path, "CosineSchedule", "VPrediction", "trailing", None)
        assert expected.abs().max() > 1.1
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)

    def ddim(
        self, path: Path, schedule: str, objective: str, spacing: str, thresholding: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two images in 20 steps, by diffusers after an export and by us, from the same noise."""
        diffusers = pytest.importorskip("diffusers")
        option = {
            "type": f"{SAMPLERS}.DDIM",
            "num_steps": 20,
            "spacing": spacing,
            "thresholding": thresholding,
        }
        ours = model(
            noise_schedule={"type": f"{SCHEDULES}.{schedule}"},
            objective={"type": f"{OBJECTIVES}.{objective}"},
            sampler=option,
        )
        write_folder(path / "export", to_diffusers(ours))
        pipeline = diffusers.DDIMPipeline.from_pretrained(path / "export")
        x = initial = normal(5, Stream.INITIAL, 0, torch.arange(2), (3, 16, 16), device="cpu")
        pipeline.scheduler.set_timesteps(20)
        with torch.no_grad():
            for t in pipeline.scheduler.timesteps:
                # Without the flag diffusers clips x_0 and keeps the eps that belonged to another.
                x = pipeline.scheduler.step(
                    pipeline.unet(x, t).sample, t, x, use_clipped_model_output=True
                ).prev_sample
        sampler = ours.spec.build("sampler")
        expected = sampler.sample(ours.denoiser, (3, 16, 16), torch.arange(2), 5)
        assert (expected - initial).abs().mean() > 0.1
        return x, expected

    def test_ancestral_becomes_a_ddpm_pipeline(self, tmp_path: Path) -> None:
        diffusers = pytest.importorskip("diffusers")
        for variance in ("small", "large"):
            option = {"type": f"{SAMPLERS}.Ancestral", "num_steps": 1000, "variance": variance}
            write_folder(tmp_path / "export", to_diffusers(model(sampler=option)))
            pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "export")
            assert type(pipeline).__name__ == "DDPMPipeline"
            assert pipeline.scheduler.config.variance_type == f"fixed_{variance}"
            spec, _ = from_diffusers(read_folder(tmp_path / "export"))
            assert spec.build("sampler").variance == variance

    def test_flow_matching_runs_there(self, tmp_path: Path) -> None:
        diffusers = pytest.importorskip("diffusers")
        ours = model(
            noise_schedule={"type": f"{SCHEDULES}.FlowSchedule"},
            objective={"type": f"{OBJECTIVES}.FlowVelocity"},
            sampler={"type": f"{SAMPLERS}.FlowEuler", "num_steps": 10, "thresholding": None},
        )
        write_folder(tmp_path / "export", to_diffusers(ours))
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
            tmp_path / "export", subfolder="scheduler"
        )
        unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "export", subfolder="unet").eval()
        x = normal(5, Stream.INITIAL, 0, torch.arange(2), (3, 16, 16), device="cpu")
        scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        sampler = ours.spec.build("sampler")
        expected = sampler.sample(ours.denoiser, (3, 16, 16), torch.arange(2), 5)
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)
        spec, _ = from_diffusers(read_folder(tmp_path / "export"))
        assert spec.noise_schedule["type"].endswith("FlowSchedule")

    def test_schedules_are_theirs(self) -> None:
        diffusers = pytest.importorskip("diffusers")
        for name in ("linear", "squaredcos_cap_v2"):
            for total in (1000, 300):
                scheduler = diffusers.DDPMScheduler(num_train_timesteps=total, beta_schedule=name)
                pipeline = DiffusersModel(
                    "",
                    dict(theirs().config),
                    theirs().state_dict(),
                    {"_class_name": "DDPMScheduler", **scheduler.config},
                )
                schedule = from_diffusers(pipeline)[0].build("noise_schedule")
                expected = scheduler.alphas_cumprod.double()
                torch.testing.assert_close(schedule.alpha_bar, expected, rtol=1e-4, atol=1e-6)


class TestRoundTrip:
    @pytest.mark.parametrize("conditional", [False, True])
    def test_gives_back_the_model(self, tmp_path: Path, conditional: bool) -> None:
        ours = model(classes=("a", "b"), conditional=conditional, image_shape=(3, 8, 16))
        write_folder(tmp_path / "export", to_diffusers(ours))
        classes = ("a", "b") if conditional else ()
        spec, weights = from_diffusers(read_folder(tmp_path / "export"), classes)
        state = ours.network.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[name], value) for name, value in weights.items())
        assert spec.image_shape == (3, 8, 16)
        assert spec.conditional == conditional
        assert spec.classes == classes
        restored = spec.build("noise_schedule")
        torch.testing.assert_close(restored.alpha_bar, ours.denoiser.schedule.alpha_bar)

    @pytest.mark.parametrize("kind", [DDIM, Ancestral])
    @pytest.mark.parametrize(
        "threshold",
        [
            None,
            StaticThreshold(),
            DynamicThreshold(),
            DynamicThreshold(0.9, 2),
            DynamicThreshold(1.0, 1),
        ],
    )
    def test_gives_back_the_sampler(self, kind: type[Sampler], threshold: Threshold | None) -> None:
        ours = kind(50, spacing="linspace", thresholding=threshold)
        _, config = export_scheduler(LinearSchedule(), EpsilonPrediction(), ours)
        _, _, option = import_scheduler(json.loads(json.dumps(config)))
        back = build(option, trusted=("ddpm_kedro",))
        assert (type(back), back.spacing) == (kind, "linspace")
        assert type(back.thresholding) is type(threshold)
        assert threshold is None or vars(back.thresholding) == vars(threshold)

    def test_replaces_an_older_export(self, tmp_path: Path) -> None:
        for _ in range(2):
            write_folder(tmp_path / "export", to_diffusers(model()))
        assert [item.name for item in tmp_path.iterdir()] == ["export"]
        assert sorted(item.name for item in (tmp_path / "export").iterdir()) == [
            "model_index.json",
            "scheduler",
            "unet",
        ]

    def test_leaves_a_strangers_folder_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("three years")
        with pytest.raises(InputError, match="not an earlier export"):
            write_folder(tmp_path / "mine", to_diffusers(model()))
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"

    def test_keeps_the_older_export_when_writing_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_folder(tmp_path / "export", to_diffusers(model()))
        before = (tmp_path / "export" / "unet" / "config.json").read_bytes()

        def full(*arguments: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            write_folder(tmp_path / "export", to_diffusers(model(image_shape=(3, 32, 32))))
        assert (tmp_path / "export" / "unet" / "config.json").read_bytes() == before
        assert [item.name for item in tmp_path.iterdir()] == ["export"]

    def test_reads_the_flat_layout_and_the_names_of_old(self, tmp_path: Path) -> None:
        ours = model()
        write_folder(tmp_path, to_diffusers(ours))
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = {}
        for name, value in safetensors.torch.load_file(
            tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
        ).items():
            for new, former in old.items():
                name = name.replace(new, former)
            tensors[name] = value
        flat = tmp_path / "flat"
        flat.mkdir()
        safetensors.torch.save_file(tensors, flat / "diffusion_pytorch_model.safetensors")
        (tmp_path / "unet" / "config.json").rename(flat / "config.json")
        (tmp_path / "scheduler" / "scheduler_config.json").rename(flat / "scheduler_config.json")
        _, weights = from_diffusers(read_folder(flat))
        state = ours.network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in weights.items())


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"backbone": {"type": f"{BACKBONES}.HomeworkUNet", "hidden_size": 8}}, "HomeworkUNet"),
            ({"backbone": {"type": f"{BACKBONES}.CompactUNet"}}, "CompactUNet"),
            ({"backbone": {**TINY, "num_groups": 16}}, "number of groups"),
            ({"backbone": {**TINY, "channel_mults": [2, 2]}}, "channel_mults begin with 1"),
            ({"image_shape": (3, 18, 16)}, "multiples of 4"),
            (
                {
                    "noise_schedule": {"type": f"{SCHEDULES}.EDMSchedule"},
                    "objective": {"type": f"{OBJECTIVES}.EDMPreconditioning"},
                    "sampler": None,
                },
                "EDMPreconditioning on EDMSchedule",
            ),
        ],
    )
    def test_of_what_diffusers_lacks(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(InputError, match=named):
            to_diffusers(model(**options))

    @pytest.mark.parametrize(
        ("part", "change", "named"),
        [
            ("unet", {"flip_sin_to_cos": True}, "flip_sin_to_cos=True"),
            ("unet", {"downsample_padding": 1}, "downsample_padding=1"),
            ("unet", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
            ("unet", {"down_block_types": ["SkipDownBlock2D"] * 3}, "SkipDownBlock2D"),
            ("unet", {"up_block_types": ["UpBlock2D"] * 3}, "mirror"),
            ("unet", {"block_out_channels": [16, 24, 32]}, "multiples"),
            ("unet", {"block_out_channels": None}, "block_out_channels"),
            ("unet", {"out_channels": 6}, "out_channels=6"),
            ("unet", {"norm_num_groups": 16}, "norm_num_groups=16"),
            ("unet", {"layers_per_block": 2}, "do not fit"),
            ("unet", {"block_out_channels": [32, 64, 64]}, "shape"),
            ("unet", {"sample_size": None}, "sample_size"),
            ("scheduler", {"beta_schedule": "scaled_linear"}, "scaled_linear"),
            ("scheduler", {"trained_betas": [0.1]}, "trained_betas"),
            ("scheduler", {"prediction_type": "flow"}, "flow"),
            ("scheduler", {"num_train_timesteps": "many"}, "many"),
            ("scheduler", {"beta_start": "low"}, "beta_start=low: input should be a valid number"),
            ("scheduler", {"clip_sample_range": 2.0}, "clip_sample_range=2.0: only 1.0"),
            ("scheduler", {"steps_offset": 1, "timestep_spacing": "leading"}, "steps_offset=1"),
            ("scheduler", {"set_alpha_to_one": False}, "DDIMScheduler with set_alpha_to_one=False"),
            ("scheduler", {"thresholding": True, "sample_max_value": 0.5}, "sample_max_value=0.5"),
            ("scheduler", {"timestep_spacing": "cubic"}, "timestep_spacing=cubic: input should be"),
            ("scheduler", {"predict_epsilon": False}, "predict_epsilon=False"),
            ("scheduler", {"of_tomorrow": 3}, "of_tomorrow=3: cannot be imported"),
            ("scheduler", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
            ("scheduler", {"_class_name": None}, "_class_name=None"),
            (
                "scheduler",
                {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
                "variance_type=learned_range: input should be 'fixed_small'",
            ),
            (
                "scheduler",
                {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
                "use_flow_sigmas=True",
            ),
        ],
    )
    def test_of_what_we_lack(
        self, tmp_path: Path, part: str, change: dict[str, Any], named: str
    ) -> None:
        write_folder(tmp_path, to_diffusers(model()))
        name = "config.json" if part == "unet" else "scheduler_config.json"
        path = tmp_path / part / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(InputError, match=named):
            from_diffusers(read_folder(tmp_path))

    @pytest.mark.parametrize(
        "fields",
        [
            {"clip_sample": False, "clip_sample_range": 2.0},
            {"thresholding": True, "clip_sample_range": 2.0, "sample_max_value": 3.0},
            {"thresholding": False, "dynamic_thresholding_ratio": 0.5, "sample_max_value": 9.0},
            {"timestep_spacing": "trailing", "steps_offset": 1},
            {"_class_name": "DDPMScheduler", "set_alpha_to_one": False},
            {"_of_tomorrow": 3, "of_tomorrow": None},
        ],
    )
    def test_of_no_field_without_effect(self, fields: dict[str, Any]) -> None:
        _, _, sampler = import_scheduler({"_class_name": "DDIMScheduler", **fields})
        assert sampler["spacing"] == fields.get("timestep_spacing", "leading")

    @pytest.mark.parametrize(
        ("field", "value"),
        [("num_train_timesteps", 500), ("shift", 3.0), ("use_karras_sigmas", True)],
    )
    def test_of_other_straight_paths(self, field: str, value: Any) -> None:
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", field: value}
        with pytest.raises(InputError, match=f"{field}={value}: only"):
            import_scheduler(config)

    def test_of_a_threshold_that_diffusers_lacks(self) -> None:
        class Tanh(Threshold):
            def __call__(self, x0: torch.Tensor) -> torch.Tensor:
                return x0.tanh()

        with pytest.raises(InputError, match="Tanh"):
            export_scheduler(LinearSchedule(), EpsilonPrediction(), DDIM(9, thresholding=Tanh()))

    def test_of_no_default_of_diffusers(self, caplog: pytest.LogCaptureFixture) -> None:
        """What diffusers writes without being told anything, for every scheduler that we take."""
        diffusers = pytest.importorskip("diffusers")
        for kind in ("DDPM", "DDIM", "FlowMatchEulerDiscrete", "PNDM", "UniPCMultistep",
                     "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete"):  # fmt: skip
            config = dict(getattr(diffusers, f"{kind}Scheduler")().config)
            caplog.clear()
            _, _, sampler = import_scheduler({"_class_name": f"{kind}Scheduler", **config})
            lost = kind not in ("DDPM", "DDIM", "FlowMatchEulerDiscrete")
            assert (sampler is None) == lost == bool(caplog.messages)
            assert all(f"{kind}Scheduler: how it samples" in line for line in caplog.messages)

    def test_of_files_that_are_not_there_or_torn(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no folder"):
            read_folder(tmp_path / "none")
        write_folder(tmp_path / "export", to_diffusers(model()))
        weights = tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])
        with pytest.raises(InputError, match="whole safetensors"):
            read_folder(tmp_path / "export")
        weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
        with pytest.raises(InputError, match="pickle"):
            read_folder(tmp_path / "export")
        weights.with_name("diffusion_pytorch_model.bin").rename(weights)
        (tmp_path / "export" / "unet" / "config.json").write_text("{")
        with pytest.raises(InputError):
            read_folder(tmp_path / "export")

    def test_of_names_for_other_classes(self) -> None:
        with pytest.raises(InputError, match="classes"):
            from_diffusers(to_diffusers(model()), ("a",))
