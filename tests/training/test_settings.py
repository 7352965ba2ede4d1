"""Choices are checked before any work, and each is either shaping or recorded."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiny_training import tiny_settings

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.settings import TrainingSettings, with_defaults
from ddpm_kedro.training.store.fingerprint import fingerprint

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": True}, "batch_size=True"),
    ({"budget_kimg": -1}, "budget_kimg=-1"),
    ({"budget_kimg": float("nan")}, "budget_kimg=nan"),
    ({"max_minutes": 0}, "max_minutes=0"),
    ({"precision": "fp8"}, "should be 'auto', 'fp32', 'bf16' or 'fp16'"),
    ({"compile": True}, "should be 'auto', 'on' or 'off'"),
    ({"micro_batch_size": 0}, "micro_batch_size"),
    ({"lanes": 0}, "lanes"),
    ({"lanes": 9}, "a batch has 8 images"),
    ({"clip_norm": 0}, "clip_norm"),
    ({"label_dropout": 1.2}, "label_dropout"),
    ({"held_out_fraction": 1}, "held_out_fraction"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "less than 9223372036854775808"),
    ({"ema": {"halflives_kimg": [], "warmup_ratio": None}}, "halflives_kimg"),
    ({"ema": {"halflives_kimg": [1, 1], "warmup_ratio": None}}, "each one once"),
    ({"ema": {"halflives_kimg": [1], "warmup_ratio": 0}}, "warmup_ratio"),
    ({"ema": {"halflife": 1}}, "halflife"),
    ({"optimizer": {"lr": 1}}, "training.optimizer=.*needs a type"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_choices_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_settings(**changes)


CHANGES: dict[str, Any] = {
    "batch_size": 4,
    "augmentation": {"type": "ddpm_kedro.training.augmentation.NoAugmentation"},
    "backbone": {"type": "tiny_training.TinyNetwork", "width": 4},
    "noise_schedule": {"type": "ddpm_kedro.diffusion.noise_schedule.LinearSchedule"},
    "objective": {"type": "ddpm_kedro.diffusion.objective.X0Prediction"},
    "loss_weight": {"type": "ddpm_kedro.diffusion.loss_weight.MinSNRWeight"},
    "timesteps": {"type": "ddpm_kedro.diffusion.timesteps.StratifiedTimesteps"},
    "optimizer": {"type": "torch.optim.Adam", "lr": 1e-3},
    "lr_schedule": {"type": "ddpm_kedro.training.lr_schedule.Constant"},
    "ema": {"halflives_kimg": [0.05], "warmup_ratio": 0.05},
    "seed": 1,
    "clip_norm": None,
    "conditional": True,
    "held_out_fraction": 0.1,
    "held_out_images": 3,
}
RECORDED: dict[str, Any] = {
    "budget_kimg": 1.0,
    "sampler": {"type": "ddpm_kedro.diffusion.samplers.DDIM", "num_steps": 3},
    "max_minutes": 1.0,
    "precision": "bf16",
    "compile": "off",
    "micro_batch_size": 2,
    "lanes": 2,
    "label_dropout": 0.3,  # of an unconditional training: nothing is dropped
    "log_every_kimg": 1.0,
    "preview_every_kimg": 1.0,
    "checkpoint_every_kimg": 1.0,
    "score_every_kimg": 1.0,
    "keep_checkpoints": 1,
    "max_skipped_updates": 1,
    "num_previews": 1,
    "device": "cuda",
    "distributed": {"workers": 2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_shapes_a_training_changes_its_fingerprint(name: str) -> None:
    base, changed = tiny_settings(), tiny_settings(**{name: CHANGES[name]})
    assert fingerprint(base.shaping("images")) != fingerprint(changed.shaping("images"))


@pytest.mark.parametrize("name", RECORDED)
def test_what_does_not_shape_it_leaves_the_fingerprint(name: str) -> None:
    base, changed = tiny_settings(), tiny_settings(**{name: RECORDED[name]})
    assert fingerprint(base.shaping("images")) == fingerprint(changed.shaping("images"))
    assert base.recorded() != changed.recorded() or name == "label_dropout"


def test_every_field_is_one_or_the_other() -> None:
    names = {item.name for item in fields(TrainingSettings)}
    assert names == {*CHANGES, *RECORDED, "restart", "keep_trainings", "init_from", "features"}


def test_features_are_recorded_with_the_scores_that_they_make() -> None:
    other = {"features": {"type": "ddpm_kedro.PrincipalComponents", "num_components": 2}}
    assert tiny_settings().recorded() == tiny_settings(**other).recorded()
    scored, otherwise = (tiny_settings(score_every_kimg=1, **more) for more in ({}, other))
    assert scored.recorded() != otherwise.recorded()
    assert scored.shaping("images") == otherwise.shaping("images")


def test_images_label_dropout_and_initial_weights_shape_too(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    settings = tiny_settings(conditional=True)
    shapings = [
        settings.shaping("images"),
        settings.shaping("others"),
        tiny_settings(conditional=True, label_dropout=0.3).shaping("images"),
        tiny_settings(conditional=True, init_from=str(model)).shaping("images"),
    ]
    assert len(set(map(fingerprint, shapings))) == 4
    model.write_bytes(b"other weights")
    shapings.append(tiny_settings(conditional=True, init_from=str(model)).shaping("images"))
    assert len(set(map(fingerprint, shapings))) == 5
    with pytest.raises(InputError, match="no model file there"):
        tiny_settings(init_from=str(tmp_path / "none")).shaping("images")


def test_the_budget_shapes_only_where_the_rate_depends_on_it() -> None:
    cosine = {"lr_schedule": {"type": "ddpm_kedro.training.lr_schedule.Cosine"}}
    short, long = (tiny_settings(**cosine, budget_kimg=budget) for budget in (0.1, 0.2))
    assert fingerprint(short.shaping("")) != fingerprint(long.shaping(""))


def test_a_default_written_out_is_the_same_training() -> None:
    bare, full = {"type": "torch.optim.Adam"}, {"type": "torch.optim.Adam", "lr": 0.001}
    assert with_defaults(bare) == with_defaults(full) == with_defaults({**bare, "fused": True})


def test_the_budget_is_whole_steps() -> None:
    settings = tiny_settings(batch_size=8, budget_kimg=0.1)
    assert (settings.num_steps, settings.budget_images) == (13, 104)
    assert tiny_settings(batch_size=100, budget_kimg=0.01).num_steps == 1


def test_names_of_averages() -> None:
    settings = tiny_settings(ema={"halflives_kimg": [500, 50, 0.5], "warmup_ratio": None})
    assert settings.ema.names == ("ema", "ema_50kimg", "ema_0.5kimg")


def test_workers_get_them_by_pickle() -> None:
    settings = tiny_settings(distributed={"workers": 2})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert copy.deepcopy(settings) == settings
