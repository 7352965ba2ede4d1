"""The whole of training: what it learns, what it writes, what it refuses."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import last_tensors, run, tiny_images, tiny_settings, untimed_log

from ddpm_kedro.diffusion.model import load_model, save_model
from ddpm_kedro.diffusion.model_file import read_model_file
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.noise_schedule import LinearSchedule
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training import train
from ddpm_kedro.training.tracker import Tracker, read_log
from ddpm_kedro.training.train import model_spec


def test_a_linear_network_learns_the_coefficients_of_a_gaussian(tmp_path: Path) -> None:
    """eps* = sigma / (alpha^2 s^2 + sigma^2) (x - alpha mu) for data N(mu, s^2)."""
    pixels = np.random.default_rng(0).normal(150, 30, (1000, 1, 4, 4))
    images = ImageSet(pixels.round().clip(0, 255).astype(np.uint8))
    steps = 5
    schedule = {"num_timesteps": steps, "beta_start": 1e-4, "beta_end": 4e-3}
    receipts = run(
        tmp_path,
        images=images,
        backbone={"type": "tiny_training.AffineNetwork", "num_timesteps": steps},
        noise_schedule={"type": "ddpm_kedro.diffusion.noise_schedule.LinearSchedule", **schedule},
        objective={"type": "ddpm_kedro.diffusion.objective.EpsilonPrediction"},
        timesteps={"type": "ddpm_kedro.diffusion.timesteps.StratifiedTimesteps"},
        optimizer={"type": "torch.optim.Adam", "lr": 0.1},
        lr_schedule={"type": "ddpm_kedro.training.lr_schedule.Cosine", "warmup_kimg": 1},
        clip_norm=None,
        batch_size=500,
        budget_kimg=200,
        log_every_kimg=50,
        checkpoint_every_kimg=200,
        ema={"halflives_kimg": [10], "warmup_ratio": 0.05},
    )
    network = load_model(receipts.model.path, trusted_modules=("tiny_training",)).network
    data = images.images / 127.5 - 1
    mu, s = data.mean(), data.std()
    t = torch.arange(steps)
    beta = LinearSchedule(**schedule)
    alpha, sigma = beta.alpha(t).numpy(), beta.sigma(t).numpy()
    slope = sigma / (alpha**2 * s**2 + sigma**2)
    offset = -slope * alpha * mu
    assert network.slope.detach().numpy() == pytest.approx(slope, rel=0.05)
    assert network.offset.detach().numpy() == pytest.approx(offset, rel=0.05, abs=0.01)


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    receipts = run(tmp_path)
    records = read_log(receipts.training_log.path)
    assert [record["step"] for record in records] == [3, 6, 8, 9, 12, 15, 16]
    assert all(record["images_seen"] == 8 * record["step"] for record in records)
    assert [("held_out_loss" in record) for record in records] == [
        record["step"] in (8, 16) for record in records
    ]
    assert [record["lr"] for record in records[:2]] == pytest.approx([0.005, 0.01])
    assert records[0]["epoch"] == 24 / 32  # 8 of the 40 images are held out
    for record in records:
        assert record["skipped_updates"] == 0
        assert record["loss"] > 0
        assert record["grad_norm"] > 0
        assert record["images_per_second"] > 0


def test_a_model_file_has_every_set_of_weights(tmp_path: Path) -> None:
    # Without warm-up, during which all averages are the same.
    receipts = run(tmp_path, ema={"halflives_kimg": [0.05, 0.2], "warmup_ratio": None})
    tensors = last_tensors(receipts)
    assert not torch.equal(tensors["ema/0/0"], tensors["ema/1/0"])
    names = ["entry.weight", "entry.bias", "time.weight", "time.bias", "exit.weight", "exit.bias"]
    sets = (("raw", "network/{}"), ("ema", "ema/0/{}"), ("ema_0.2kimg", "ema/1/{}"))
    for weights, prefix in sets:
        model = load_model(receipts.model.path, weights, trusted_modules=("tiny_training",))
        state = model.network.state_dict()
        for number, name in enumerate(names):
            saved = tensors[prefix.format(name if weights == "raw" else number)]
            assert torch.equal(state[name], saved), (weights, name)
    assert model.spec.provenance["images_seen"] == 128
    assert model.spec.provenance["training"]["label_dropout"] is None  # there are no labels to drop
    conditional = model_spec(tiny_images(), tiny_settings(conditional=True, label_dropout=0.0))
    assert conditional.provenance["training"]["label_dropout"] == 0.0  # sampling asks this
    assert model.sample(2).shape == (2, 1, 4, 4)


def test_previews_come_when_due_and_at_the_end(tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.notes: dict[str, Any] = {}

        def record(self, record: dict[str, Any]) -> None: ...

        def preview(self, path: Path, record: dict[str, Any]) -> None:
            assert path.is_file()
            self.seen.append(record["images_seen"])

        def note(self, key: str, value: Any) -> None:
            self.notes[key] = value

    listener, tracker = Listener(), Tracker()
    tracker.attach(listener)
    receipts = run(tmp_path, tracker, preview_every_kimg=0.05)
    assert listener.seen == [56, 104, 128]
    assert len(list(receipts.sample_previews.path.glob("preview_*.png"))) == 3
    assert listener.notes["fingerprint"] == receipts.model.facts["fingerprint"]
    assert {"training", "model"} <= listener.notes.keys()


def test_fine_tuning_starts_from_the_averaged_weights(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    frozen = {"type": "torch.optim.SGD", "lr": 0.0}
    second = run(tmp_path / "second", init_from=str(first.model.path), optimizer=frozen)
    wanted = load_model(first.model.path, "ema", trusted_modules=("tiny_training",))
    found = load_model(second.model.path, "raw", trusted_modules=("tiny_training",))
    for name, value in wanted.network.state_dict().items():
        assert torch.equal(value, found.network.state_dict()[name])


def foreign_model(path: Path, source: Path, rename: dict[str, str]) -> Path:
    """The weights of ``source`` in a file that names an objective which nobody here has."""
    header, tensors = read_model_file(source)
    spec = replace(ModelSpec.from_dict(header["spec"]), objective={"type": "nowhere.Objective"})
    sets: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        sets.setdefault(rename.get(group, group), {})[rest] = tensor
    save_model(path, spec, sets)
    return path


def test_fine_tuning_takes_weights_and_builds_nothing_else_of_the_file(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    foreign = foreign_model(tmp_path / "foreign.safetensors", first.model.path, {})
    second = run(tmp_path / "second", init_from=str(foreign))
    assert second.model.path.exists()
    without = foreign_model(tmp_path / "without.safetensors", first.model.path, {"ema": "mean"})
    with pytest.raises(InputError, match="no weights 'ema'"):
        run(tmp_path / "third", init_from=str(without))
    damaged = bytearray(foreign.read_bytes())
    damaged[-1] ^= 1
    foreign.write_bytes(damaged)
    with pytest.raises(InputError, match=r"training\.init_from: .*damaged"):
        run(tmp_path / "third", init_from=str(foreign))
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_more_workers_than_gpus_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(train, "choose_device", torch.device)
    monkeypatch.setattr(train, "choose_precision", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="workers=3: device=cuda"):
        run(tmp_path / "store", device=device, distributed={"workers": 3})
    assert not (tmp_path / "store").exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"device": "cuda:99"}, "device=cuda:99"),
    ({"backbone": {"type": "tiny_training.TinyNetwork", "widht": 3}}, "widht"),
    ({"backbone": {"type": "torch.optim.Adam"}}, "backbone"),
    ({"optimizer": {"type": "torch.optim.SGD", "lr": -1.0}}, "learning rate"),
    ({"optimizer": {"type": "torch.optim.SGD", "lrr": 1}}, "lrr"),
    ({"optimizer": {"type": "torch.optim.LBFGS"}}, "closure"),
    ({"augmentation": {"type": "ddpm_kedro.training.augmentation.Flop"}}, "Flop"),
    ({"augmentation": {"type": "ddpm_kedro.training.augmentation.Flip", "probability": 2}}, "=2"),
    ({"optimizer": {"type": "torch.nn.Linear", "in_features": 1, "out_features": 1}}, "Linear"),
    ({"lr_schedule": {"type": "torch.optim.lr_scheduler.StepLR"}}, "step_size"),
    ({"lr_schedule": {"type": "ddpm_kedro.training.lr_schedule.Cosine", "warmup": 1}}, "warmup"),
    ({"timesteps": {"type": "ddpm_kedro.diffusion.timesteps.LogNormalTimesteps"}}, "continuous"),
    ({"sampler": {"type": "ddpm_kedro.diffusion.samplers.DDIM", "num_steps": 0}}, "num_steps"),
    ({"init_from": "/nowhere/model.safetensors"}, "model file"),
    ({"score_every_kimg": 1, "features": {"type": "ddpm_kedro.EfficientNetLite"}}, "4x4 pixels"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path / "store", **changes)
    assert not (tmp_path / "store").exists()


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    unlabelled = ImageSet(tiny_images().images)
    with pytest.raises(InputError, match="no labels"):
        run(tmp_path / "store", images=unlabelled, conditional=True)
    with pytest.raises(InputError, match="no images"):
        run(tmp_path / "store", images=ImageSet(np.empty((0, 1, 4, 4), np.uint8)))
    other = run(tmp_path / "other", backbone={"type": "tiny_training.TinyNetwork", "width": 4})
    with pytest.raises(InputError, match="its backbone is another one"):
        run(tmp_path / "store", init_from=str(other.model.path))
    assert not (tmp_path / "store").exists()


def test_too_many_skipped_updates_stop_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The rate explodes after the first checkpoint; what was good stays on disk."""
    run(tmp_path, budget_kimg=0.064)
    explosive = {"type": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [10], "gamma": 1e30}
    options = {"lr_schedule": explosive, "clip_norm": None, "max_skipped_updates": 2}
    sgd = {"optimizer": {"type": "torch.optim.SGD", "lr": 0.01}}
    with pytest.raises(InputError, match=r"at step \d+ .*step_0000000008; .*learning rate"):
        run(tmp_path, **options, **sgd)
    names = sorted(path.name for path in tmp_path.rglob("step_*"))
    assert names == ["step_0000000008"] * 2


def test_an_estimate_comes_after_twenty_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ddpm_kedro"):
        run(tmp_path, budget_kimg=0.3)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "169 parameters" in text
    assert "precision fp32 (as asked)" in text
    assert "over 20 steps: the 13 steps left take about" in text


def test_the_same_seed_in_two_places_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = (
        run(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one.model.path.read_bytes() == two.model.path.read_bytes()
    assert untimed_log(one) == untimed_log(two) != untimed_log(other)
