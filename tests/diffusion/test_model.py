"""A model makes the same images whatever the batch, and its file is read with suspicion."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ddpm_kedro import load_model as load_model_of_package
from ddpm_kedro.diffusion.execution import Compiled, Tiled
from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.model import Model, load_model, save_model
from ddpm_kedro.diffusion.model_header import HEADER, content_hash
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.samplers import DDIM
from ddpm_kedro.diffusion.samplers.thresholding import StaticThreshold
from ddpm_kedro.errors import InputError

BACKBONES = "ddpm_kedro.diffusion.backbones"
SCHEDULES = "ddpm_kedro.diffusion.noise_schedule"
OBJECTIVES = "ddpm_kedro.diffusion.objective"
SAMPLERS = "ddpm_kedro.diffusion.samplers"
OPTIONS: dict[str, Any] = {
    "backbone": {"type": f"{BACKBONES}.CompactUNet", "base_channels": 8, "dropout": 0.3},
    "noise_schedule": {"type": f"{SCHEDULES}.CosineSchedule", "num_timesteps": 100},
    "objective": {"type": f"{OBJECTIVES}.VPrediction"},
    "image_shape": (1, 8, 8),
    "sampler": {"type": f"{SAMPLERS}.DDIM", "num_steps": 3, "eta": 1.0},
}


def model(seed: int = 0, **options: Any) -> Model:
    """A model whose every weight is random, so that nothing hides behind zeros."""
    made = Model.create(**{**OPTIONS, **options})
    torch.manual_seed(seed)
    for parameter in made.network.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return made


def conditional(**options: Any) -> Model:
    return model(classes=("zero", "one", "two"), conditional=True, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model file with two sets of weights."""
    save_model(
        tmp_path / "model.safetensors",
        model().spec,
        {"ema": model(0).network.state_dict(), "raw": model(1).network.state_dict()},
    )
    return tmp_path / "model.safetensors"


class TestSample:
    def test_gives_bytes_of_the_datas_shape(self, device: torch.device) -> None:
        images = model(image_shape=(3, 9, 7)).sample(5, device=device)
        assert images.dtype == np.uint8
        assert images.shape == (5, 3, 9, 7)
        assert images.std() > 0

    def test_bytes_are_the_samplers_pixels(self) -> None:
        class Ramp(DDIM):
            def sample(self, denoiser: object, shape: object, rows: torch.Tensor, *_: object,
                       **__: object) -> torch.Tensor:  # fmt: skip
                pixels = torch.arange(-192, 448, 10).reshape(1, 1, 8, 8) / 127.5 - 1
                return pixels + rows.reshape(-1, 1, 1, 1) / 127.5

        expected = np.arange(-192, 448, 10).reshape(1, 1, 8, 8) + np.arange(2).reshape(2, 1, 1, 1)
        assert np.array_equal(model().sample(2, sampler=Ramp(1)), expected.clip(0, 255))

    # Tiles of 64 images of 8x8 and of 4 of 48x40
    @pytest.mark.parametrize(("shape", "count"), [((1, 8, 8), 150), ((3, 48, 40), 21)])
    def test_bytes_do_not_depend_on_the_batch(
        self, shape: tuple[int, int, int], count: int
    ) -> None:
        made = model(image_shape=shape)
        expected = made.sample(count, seed=3)
        for batch_size in (1, count // 3, count // 3 + 1, count - 1, 5 * count):
            assert np.array_equal(made.sample(count, seed=3, batch_size=batch_size), expected)
        assert np.array_equal(made.sample(4, seed=3), expected[:4])

    def test_bytes_do_not_depend_on_the_batch_under_guidance(self) -> None:
        made = conditional(image_shape=(1, 48, 40))
        labels = np.arange(19) % 4  # 3 is no class
        expected = made.sample(19, labels=labels, guidance=2.5)
        for batch_size in (1, 9, 17):
            images = made.sample(19, labels=labels, guidance=2.5, batch_size=batch_size)
            assert np.array_equal(images, expected)

    def test_seed_decides(self) -> None:
        made = model()
        assert np.array_equal(made.sample(4, seed=1), made.sample(4, seed=1))
        assert not np.array_equal(made.sample(4, seed=1), made.sample(4, seed=2))

    def test_leaves_training_mode_and_gradients_as_they_were(self) -> None:
        made = model()
        made.network.train()
        assert np.array_equal(made.sample(2), made.sample(2))  # no dropout inside
        assert made.network.training
        assert all(parameter.requires_grad for parameter in made.network.parameters())
        made.denoiser.loss(  # the schedule's tables still serve a training
            torch.zeros(2, 1, 8, 8), torch.tensor([3.0, 50.0]), torch.ones(2, 1, 8, 8)
        ).sum().backward()

    def test_half_precision_is_close(self, device: torch.device) -> None:
        made = model()
        exact = made.sample(8, device=device).astype(int)
        rough = made.sample(8, device=device, precision="bf16").astype(int)
        assert np.abs(exact - rough).mean() < 8

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
    def test_a_replayed_graph_draws_what_eager_kernels_draw(self) -> None:
        made, device = model(), torch.device("cuda")
        for choice in ({}, {"batch_size": 3}, {"precision": "bf16"}):
            eager = made.sample(8, device=device, compile="off", **choice)
            assert np.array_equal(made.sample(8, device=device, **choice), eager)

    def test_steps_and_samplers_can_be_chosen(self) -> None:
        made = model()
        option = {"type": f"{SAMPLERS}.DDIM", "num_steps": 7, "eta": 1.0}
        expected = made.sample(2, sampler=option)
        assert np.array_equal(made.sample(2, num_steps=7), expected)
        assert np.array_equal(made.sample(2, sampler=DDIM(7, eta=1.0)), expected)
        assert not np.array_equal(made.sample(2), expected)
        assert np.array_equal(made.sample(2, sampler={"num_steps": 7}), expected)
        assert made.drawn_with({"eta": 0.5}, 9) == {**option, "num_steps": 9, "eta": 0.5}

    @pytest.mark.parametrize(
        ("schedule", "objective"),
        [
            ("LinearSchedule", "EpsilonPrediction"),
            ("EDMSchedule", "EDMPreconditioning"),
            ("FlowSchedule", "FlowVelocity"),
        ],
    )
    def test_every_family_has_a_usual_sampler(self, schedule: str, objective: str) -> None:
        made = model(
            noise_schedule={"type": f"{SCHEDULES}.{schedule}"},
            objective={"type": f"{OBJECTIVES}.{objective}"},
            sampler=None,
        )
        assert made.sample(2, num_steps=2).shape == (2, 1, 8, 8)

    def test_labels_are_names_numbers_or_the_classes_in_turn(self) -> None:
        made = conditional()
        expected = made.sample(4, labels=[0, 1, 2, 0])
        assert np.array_equal(made.sample(4), expected)
        assert np.array_equal(made.sample(4, labels=["zero", "one", "two", "zero"]), expected)
        ones = made.sample(4, labels=1)
        assert np.array_equal(made.sample(4, labels="one"), ones)
        assert np.array_equal(made.sample(4, labels=torch.ones(4, dtype=torch.int64)), ones)
        assert np.array_equal(ones[1], expected[1])
        assert not np.array_equal(ones[0], expected[0])

    def test_guidance_of_one_and_zero_are_identities(self) -> None:
        made = conditional()
        assert np.array_equal(made.sample(3, labels=1, guidance=1.0), made.sample(3, labels=1))
        assert np.array_equal(made.sample(3, labels=1, guidance=0.0), made.sample(3, labels=3))
        assert not np.array_equal(made.sample(3, labels=1, guidance=3.0), made.sample(3, labels=1))
        interval = {"scale": 3.0, "interval": [0.0, 1e-6]}
        assert np.array_equal(made.sample(3, labels=1, guidance=interval), made.sample(3, labels=1))

    @pytest.mark.parametrize("guidance", [0.0, 2.0, {"scale": 2.0}])
    def test_guidance_needs_a_network_that_knows_no_label(self, guidance: Any) -> None:
        made = conditional(provenance={"training": {"label_dropout": 0.0}})
        assert np.array_equal(made.sample(3, guidance=1.0), made.sample(3))
        with pytest.raises(InputError, match=r"trained with label_dropout=0") as caught:
            made.sample(3, guidance=guidance)
        assert "\n" not in str(caught.value)
        conditional(provenance={"training": {"label_dropout": 0.1}}).sample(3, guidance=guidance)

    def test_progress_is_shown_on_request(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        model().sample(2)
        assert "sampling" not in caplog.text
        model().sample(2, progress=True)
        assert "sampling 2 images in 3 steps in fp32 takes about" in caplog.text

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"num_samples": 0}, "num_samples"),
            ({"num_samples": 2.5}, "num_samples"),
            ({"seed": 0.5}, "seed"),
            ({"batch_size": 0}, "batch_size"),
            ({"precision": "half"}, "precision"),
            ({"compile": True}, "compile"),
            ({"labels": 1}, "without classes"),
            ({"guidance": 2.0}, "class-conditional"),
            ({"num_steps": 101}, "101"),
            ({"sampler": {"type": f"{OBJECTIVES}.VPrediction"}}, "not a Sampler"),
            ({"sampler": DDIM(3), "num_steps": 4}, "num_steps"),
            ({"sampler": {"type": f"{SAMPLERS}.FlowHeun", "num_steps": 4}}, "straight path"),
            ({"sampler": {"quantile": 0.5}}, "quantile"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], named: str) -> None:
        with pytest.raises(InputError, match=named):
            model().sample(**{"num_samples": 2, **arguments})

    @pytest.mark.parametrize("labels", [4, -1, "three", [0, 1, 2], [0, 0.5]])
    def test_refuses_labels(self, labels: Any) -> None:
        with pytest.raises(InputError, match="labels"):
            conditional().sample(2, labels=labels)


def test_tiles_are_the_whole() -> None:
    network = model().network.eval()
    x, t = torch.randn(8, 1, 8, 8), torch.arange(8.0)
    torch.testing.assert_close(Tiled(network, 2)(x, t), network(x, t))


@pytest.mark.parametrize("count", [3, 70])
def test_images_have_the_same_bytes_with_any_number_of_threads(count: int) -> None:
    made = model(backbone={**OPTIONS["backbone"], "base_channels": 32})
    before, images = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        images.append(made.sample(count))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


class Noting(nn.Module):
    """Notes how many OpenMP threads it is given; keeps its last input, if it is told to."""

    def __init__(self, threads: list[int], keeps: bool = False) -> None:
        super().__init__()
        self.threads, self.keeps = (threads,), keeps
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.threads[0].append(torch.get_num_threads())
        if self.keeps:
            self.last = x
        return 2 * x


@pytest.mark.parametrize(
    ("rows", "keeps", "lone_in_a_lane", "expected"),
    [(3, False, True, 1), (3, True, True, 2), (8, False, True, 1), (8, False, False, 2)],
)
def test_a_tile_has_one_thread_where_that_is_safe_and_asked_for(
    rows: int, keeps: bool, lone_in_a_lane: bool, expected: int
) -> None:
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    x = torch.randn(8, 1, 2, 2)
    with Lanes(2) as lanes:
        tiles = Tiled(Noting(threads, keeps), rows, lanes, lone_in_a_lane)
        assert torch.equal(tiles(x, torch.zeros(8)), 2 * x)
    torch.set_num_threads(before)
    assert threads[0] == 2  # the call that is watched
    assert set(threads[1:]) == {expected}


class TestCompiled:
    @pytest.fixture(autouse=True)
    def _plain_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiler = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda network, **options: compiler(network, backend="eager")
        )

    def test_gives_the_same_images(self) -> None:
        made = conditional()
        for batch_size in (None, 3):
            options = {"labels": 1, "guidance": 2.0, "batch_size": batch_size}
            expected = made.sample(5, **options)
            assert np.array_equal(made.sample(5, **options, compile="on"), expected)

    def test_goes_on_without_a_compiler(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*arguments: object) -> None:
            raise RuntimeError("no C++ compiler\nand more")

        monkeypatch.setattr(torch, "compile", lambda network, **options: broken)
        network = Compiled(model().network.eval())
        x, t = torch.randn(2, 1, 8, 8), torch.arange(2.0)
        for _ in range(2):
            assert torch.equal(network(x, t), network.network(x, t))
        assert [record.message for record in caplog.records] == [
            "torch.compile failed, going on without it: RuntimeError: no C++ compiler"
        ]

    def test_no_memory_left_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> None:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

        monkeypatch.setattr(torch, "compile", lambda network, **options: full)
        with pytest.raises(torch.OutOfMemoryError):
            Compiled(model().network.eval())(torch.randn(2, 1, 8, 8), torch.arange(2.0))

    def test_an_error_of_the_network_is_raised(self) -> None:
        network = Compiled(model().network)
        with pytest.raises(RuntimeError):
            network(torch.randn(2, 3, 8, 8), torch.arange(2.0))


class TestSpec:
    def test_survives_json(self) -> None:
        spec = conditional(provenance={"images_seen": 3}).spec
        assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert spec.num_classes == 3
        assert spec.image_shape == (1, 8, 8)

    @pytest.mark.parametrize(
        "change",
        [
            {"channels": 0},
            {"height": 2.5},
            {"width": 1 << 40},
            {"conditional": 1},
            {"classes": "abc"},
            {"classes": [], "conditional": True},
            {"backbone": "CompactUNet"},
            {"sampler": 3},
            {"unheard": 1},
        ],
    )
    def test_refuses_values_of_the_wrong_kind(self, change: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=next(iter(change))):
            ModelSpec.from_dict({**model().spec.to_dict(), **change})

    def test_refuses_what_is_missing(self) -> None:
        values = model().spec.to_dict()
        del values["objective"]
        with pytest.raises(InputError, match="objective"):
            ModelSpec.from_dict(values)

    def test_refuses_an_objective_that_its_schedule_forbids(self) -> None:
        schedule = {"type": f"{SCHEDULES}.LinearSchedule"}
        with pytest.raises(InputError):
            model(
                noise_schedule={"type": f"{SCHEDULES}.ZeroTerminalSNR", "schedule": schedule},
                objective={"type": f"{OBJECTIVES}.EpsilonPrediction"},
            )


class TestFile:
    def test_gives_back_the_model(self, path: Path) -> None:
        for seed, weights in enumerate(("ema", "raw")):
            loaded = load_model(path, weights=weights)
            assert loaded.spec == model().spec
            assert not loaded.network.training
            assert np.array_equal(loaded.sample(4), model(seed).sample(4))
        assert load_model_of_package is load_model

    def test_loads_onto_a_device(self, path: Path, device: torch.device) -> None:
        network = load_model(path, device=device).network
        assert {parameter.device.type for parameter in network.parameters()} == {device.type}

    def test_can_be_trained_further(self, path: Path) -> None:
        loaded = load_model(path)
        loaded.network(torch.zeros(1, 1, 8, 8), torch.zeros(1)).sum().backward()
        assert all(parameter.grad is not None for parameter in loaded.network.parameters())

    def test_bytes_depend_on_the_model_alone(self, path: Path, tmp_path: Path) -> None:
        sets = {"raw": model(1).network.state_dict(), "ema": model(0).network.state_dict()}
        save_model(tmp_path / "again.safetensors", model().spec, sets)
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_keeps_the_older_file_when_writing_fails(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def full(*args: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            save_model(path, model().spec, {"ema": model(5).network.state_dict()})
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_stores_half_precision_and_computes_in_single(self, tmp_path: Path) -> None:
        state = {name: value.bfloat16() for name, value in model().network.state_dict().items()}
        save_model(tmp_path / "half", model().spec, {"ema": state})
        network = load_model(tmp_path / "half").network
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}

    def test_sets_may_share_their_tensors(self, tmp_path: Path) -> None:
        state = model().network.state_dict()
        save_model(tmp_path / "model", model().spec, {"ema": state, "raw": state})
        raw = load_model(tmp_path / "model", weights="raw").network.state_dict()
        assert all(torch.equal(raw[name], value) for name, value in state.items())

    @pytest.mark.parametrize("sets", [{}, {"a/b": {}}, {"": {}}])
    def test_refuses_sets_without_a_proper_name(self, tmp_path: Path, sets: dict) -> None:
        with pytest.raises(InputError, match="weights"):
            save_model(tmp_path / "model", model().spec, sets)
        assert not (tmp_path / "model").exists()

    def test_names_the_weights_there_are(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"'ema_9kimg'.* ema, raw"):
            load_model(path, weights="ema_9kimg")


def refused(path: Path, match: str | None = None, **options: Any) -> None:
    """The file is refused in one line that names it."""
    with pytest.raises(InputError, match=match) as caught:
        load_model(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewritten(path: Path, **changes: Any) -> Path:
    """The model file with other entries in its spec and a checksum that fits them."""
    with safetensors.safe_open(path, framework="pt") as file:
        spec = json.loads(file.metadata()[HEADER])["spec"]
    spec = ModelSpec.from_dict({**spec, **changes})
    save_model(path, spec, {"ema": model().network.state_dict()})
    return path


class TestHostileFile:
    def test_missing_or_a_folder(self, tmp_path: Path) -> None:
        refused(tmp_path / "none", "train a model first")
        refused(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x80\x04\x95pickle",
            b"\xff" * 100,
            struct.pack("<Q", 2) + b"{}",
            struct.pack("<Q", 1 << 40) + b"{}",
        ],
    )
    def test_foreign_bytes(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "model").write_bytes(content)
        refused(tmp_path / "model")

    def test_foreign_safetensors(self, tmp_path: Path) -> None:
        safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "model")
        refused(tmp_path / "model", "not a model of this package")

    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(tmp_path / "sprung"),))

        torch.save({"ema": Trap()}, tmp_path / "model")
        refused(tmp_path / "model")
        assert not (tmp_path / "sprung").exists()

    def test_truncated_anywhere(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in np.linspace(0, len(whole) - 1, 40).astype(int):
            path.write_bytes(whole[:length])
            refused(path)

    def test_a_flipped_bit_anywhere(self, path: Path) -> None:
        whole = path.read_bytes()
        header = 8 + struct.unpack("<Q", whole[:8])[0]
        places = [*range(0, 8), *range(8, header, 61), *range(header, len(whole), 9973)]
        for place in places:
            altered = bytearray(whole)
            altered[place] ^= 1 << (place % 8)
            path.write_bytes(altered)
            refused(path)

    @pytest.mark.parametrize("header", ["[]", "{}", "nonsense", "[" * 100_000, '{"version": 2}'])
    def test_a_header_of_another_form(self, tmp_path: Path, header: str) -> None:
        safetensors.torch.save_file({"ema/a": torch.zeros(2)}, tmp_path / "m", {HEADER: header})
        refused(tmp_path / "m")

    @pytest.mark.parametrize(
        ("name", "kind", "match"),
        [
            ("backbone", "os.system", "trusted"),
            ("backbone", "torch.nn.Identity", "trusted"),
            ("backbone", "ddpm_kedro.files.os.system", "import"),
            ("backbone", "ddpm_kedro.files.atomic_write", "not a Module"),
            ("noise_schedule", "ddpm_kedro.files.atomic_write", "not a NoiseSchedule"),
            ("noise_schedule", f"{BACKBONES}.CompactUNet", "not a NoiseSchedule"),
            ("objective", "ddpm_kedro.progress.Progress", "not a Objective"),
            ("objective", "ddpm_kedro.nowhere.Thing", "import"),
            ("sampler", "ddpm_kedro.files.publish", "not a Sampler"),
            ("loss_weight", "builtins.eval", "trusted"),
        ],
    )
    def test_names_what_it_may_not(self, path: Path, name: str, kind: str, match: str) -> None:
        option = {"type": kind, "path": str(path.parent / "sprung")}
        refused(rewritten(path, **{name: option}), match)
        assert not (path.parent / "sprung").exists()

    @pytest.mark.parametrize(
        ("name", "outer", "argument", "match"),
        [
            (
                "noise_schedule",
                f"{SCHEDULES}.ZeroTerminalSNR",
                "schedule",
                "not a DiscreteSchedule",
            ),
            ("sampler", f"{SAMPLERS}.DDIM", "thresholding", "not a Threshold"),
            ("sampler", f"{SAMPLERS}.DDIM", "num_steps", "takes no option"),
            ("backbone", f"{BACKBONES}.CompactUNet", "channel_mults", "takes no option"),
        ],
    )
    def test_hides_it_inside_an_option(
        self, path: Path, name: str, outer: str, argument: str, match: str
    ) -> None:
        inner = {"type": "ddpm_kedro.files.atomic_write", "path": str(path.parent / "sprung")}
        option = {"type": outer, argument: inner}
        refused(rewritten(path, **{name: option}), match)
        assert not (path.parent / "sprung").exists()

    def test_an_inner_option_of_the_right_kind_is_built_under_the_same_rules(
        self, path: Path
    ) -> None:
        inner = {"type": f"{SAMPLERS}.thresholding.DynamicThreshold", "maximum": 1.5}
        option = {"type": f"{SAMPLERS}.DDIM", "num_steps": 3, "thresholding": inner}
        expected = model(0).sample(2, sampler=option)
        assert np.array_equal(load_model(rewritten(path, sampler=option)).sample(2), expected)
        stranger = option | {"thresholding": {"type": f"{__name__}.OwnThreshold"}}
        refused(rewritten(path, sampler=stranger), "trusted")
        load_model(path, trusted_modules=[__name__]).sample(2)

    def test_an_infinite_argument_comes_back(self, path: Path) -> None:
        option = {"type": "ddpm_kedro.diffusion.loss_weight.MinSNRWeight", "gamma": float("inf")}
        assert load_model(rewritten(path, loss_weight=option)).spec.loss_weight == option

    def test_trusted_modules_are_the_users_word(self, path: Path) -> None:
        option = {"type": f"{__name__}.OwnNetwork"}
        spec = ModelSpec.from_dict({**model().spec.to_dict(), "backbone": option})
        save_model(path, spec, {"ema": OwnNetwork(1).state_dict()})
        refused(path, "trusted")
        images = load_model(path, trusted_modules=[__name__]).sample(2)
        assert images.shape == (2, 1, 8, 8)

    @pytest.mark.parametrize(
        "change",
        [
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "base_channels": 16}},
            {"backbone": {"type": f"{BACKBONES}.HomeworkUNet", "hidden_size": 8}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "base_channels": 10**12}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "blocks_per_level": 10**9}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "channel_mults": [10**30]}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "unheard": 1}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "channel_mults": 3}},
            {"backbone": {"type": f"{BACKBONES}.CompactUNet", "dropout": "much"}},
            {"channels": 3},
            {"classes": ["a"], "conditional": True},
        ],
    )
    def test_claims_sizes_that_its_weights_have_not(
        self, path: Path, change: dict[str, Any]
    ) -> None:
        refused(rewritten(path, **change))


class OwnThreshold(StaticThreshold):
    """A user's own threshold."""


class OwnNetwork(nn.Module):
    """A user's own backbone."""

    def __init__(self, in_channels: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, 1)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.conv(x)


def test_a_model_is_known_by_its_files_content_and_its_weights(path: Path, tmp_path: Path) -> None:
    assert model().identity is None
    identity = load_model(path, weights="raw").identity
    assert identity == {"model": content_hash(path), "weights": "raw"}
    sets = {"ema": model(0).network.state_dict(), "raw": model(1).network.state_dict()}
    save_model(tmp_path / "again", model().spec, sets)
    assert content_hash(tmp_path / "again") == identity["model"]
    sets["ema"] = model(2).network.state_dict()
    save_model(tmp_path / "other", model().spec, sets)
    assert content_hash(tmp_path / "other") != identity["model"]
