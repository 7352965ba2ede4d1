"""Folders of finished runs, written without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_kedro.evaluation.cards import hash_of_json
from ddpm_kedro.images.grid import make_grid

SPEC = {
    "backbone": {"type": "ddpm_kedro.CompactUNet", "base_channels": 8, "channel_mults": [1]},
    "noise_schedule": {"type": "ddpm_kedro.CosineSchedule"},
    "objective": {"type": "ddpm_kedro.VPrediction"},
    "channels": 1,
    "height": 8,
    "width": 8,
}
ADAM = {"type": "torch.optim.Adam", "lr": 0.002}


def finished_run(
    folder: Path,
    mind: float = 10.0,
    interval: float = 1.96,
    optimizer: dict[str, Any] = ADAM,
    num_samples: int = 40,
    **changes: Any,
) -> Path:
    """A run in `folder` with these scores; `changes` are further metrics, None removes one."""
    metrics: dict[str, Any] = {"stamp": "5ca1ab1e", "num_samples": num_samples}
    metrics |= {"mind": mind, "mind_interval": interval, "mind_verdict": "far"}
    metrics |= {"coverage": 1 / mind, "coverage_interval": 0.0196} | changes
    metrics = {name: value for name, value in metrics.items() if value is not None}
    samples = np.random.default_rng(0).integers(256, size=(num_samples, 1, 8, 8), dtype=np.uint8)
    card = {"model": f"hash of {folder.name}", "seed": 0, "num_samples": num_samples}
    spec = {**SPEC, "provenance": {"training": {"optimizer": optimizer}, "seed": 0}}
    stamp = {"stamp": metrics.get("stamp"), "features": "pixels", "n": 40, "reference": "40 images"}
    evaluated = {"samples": card, "metrics": hash_of_json(metrics), "stamp": stamp}
    reporting, output = folder / "08_reporting", folder / "07_model_output"
    previews = reporting / "sample_previews"
    for path in (previews, output):
        path.mkdir(parents=True)
    write(reporting / "metrics.json", metrics)
    write(reporting / "diagnostics.json", {"model": spec, "evaluated": evaluated})
    write(reporting / "training_card.json", {"model": card["model"], "status": "finished"})
    write(output / "samples_card.json", card)
    np.save(output / "samples.npy", samples)
    for seen in (1000, 2000, 3000):
        make_grid(samples[: seen // 500]).save(previews / f"preview_{seen:012d}.png")
    log = [{"images_seen": 1000 * n, "elapsed_seconds": 60.0 * n, "loss": 1 / n} for n in (1, 2, 3)]
    (reporting / "training_log.jsonl").write_text("\n".join(map(json.dumps, log)) + '\n{"torn')
    return folder


def recorded(folder: Path, **sections: Any) -> Path:
    """The run in `folder` with the record of what made it."""
    parameters = {f"params:{name}": section for name, section in sections.items()}
    rest = {"nodes": ["train_model"], "made_at": "", "seconds": 1.0, "code": {}, "outputs": {}}
    write(folder / "08_reporting" / "train_model.made.json", {**rest, "parameters": parameters})
    return folder


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))
