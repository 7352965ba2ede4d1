"""Does the memory of training depend on the number of images? It should not.

    python benchmarks/memory.py --cgroup /sys/fs/cgroup/memory/mine

Writes image sets of 10,000 and of 1,000,000 colour images of 32x32 with labels into a temporary
folder (3 GB), trains a small network on each through the engine, in a process of its own under a
limit of 1.5 GB on what it may allocate (RLIMIT_DATA: private writable memory, touched or not), and
samples that process's memory from outside. The pages of the mapped file are the page cache's and
given back when somebody needs them: they stand in RssFile. With ``--cgroup``, a memory cgroup that
this process may write to (version 1 or 2), each training runs in a group of its own below it, whose
limit of the same size holds for everything, pages of files and of the kernel included, without
swap. Writes ``benchmarks/results/memory.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurement import (
    PLAIN_TRAINING,
    RESULTS,
    machine,
    markdown_table,
    save_results,
    versions,
)

from ddpm_kedro.images.imageset import ImageSet, image_set_writer
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker, read_log
from ddpm_kedro.training.train import train

IMAGE_SHAPE = (3, 32, 32)
CLASSES = tuple("0123456789")
CHUNK = 10_000
BATCH_SIZE = 32
POLL_SECONDS = 0.01
MIB = 2**20


def write_images(path: Path, count: int) -> None:
    """Random pixels, the same chunk over and over, and random labels."""
    generator = np.random.default_rng(0)
    chunk = generator.integers(0, 256, (CHUNK, *IMAGE_SHAPE), dtype=np.uint8)
    with image_set_writer(path, IMAGE_SHAPE, CLASSES) as writer:
        for first in range(0, count, CHUNK):
            writer.append(chunk[: count - first])
        writer.finish(generator.integers(0, len(CLASSES), count), CLASSES)


def settings(steps: int) -> TrainingSettings:
    """A network whose own memory is next to nothing, so that nothing hides the images'."""
    ours = "ddpm_kedro"
    values: dict[str, Any] = PLAIN_TRAINING | dict(
        batch_size=BATCH_SIZE,
        budget_kimg=steps * BATCH_SIZE / 1000,
        augmentation={"type": f"{ours}.training.augmentation.Flip"},
        backbone={
            "type": f"{ours}.diffusion.backbones.compact.CompactUNet",
            "base_channels": 8,
            "channel_mults": [1, 1],
            "attention_levels": [],
        },
        noise_schedule={"type": f"{ours}.diffusion.noise_schedule.CosineSchedule"},
        objective={"type": f"{ours}.diffusion.objective.VPrediction"},
        loss_weight={"type": f"{ours}.diffusion.loss_weight.UniformWeight"},
        timesteps={"type": f"{ours}.diffusion.timesteps.StratifiedTimesteps"},
        optimizer={"type": "torch.optim.Adam", "lr": 1e-3},
        lr_schedule={"type": f"{ours}.training.lr_schedule.LinearWarmup", "warmup_kimg": 1},
        sampler={"type": f"{ours}.diffusion.samplers.DDIM", "num_steps": 2},
        ema={"halflives_kimg": [1.0], "warmup_ratio": 0.05},
        seed=0,
        precision="fp32",
        device="cpu",
        log_every_kimg=10 * BATCH_SIZE / 1000,
        checkpoint_every_kimg=20 * BATCH_SIZE / 1000,
        held_out_fraction=0.05,
        held_out_images=256,
        num_previews=4,
    )
    return TrainingSettings(**values)


def train_here(path: Path, steps: int, limit_bytes: int) -> None:
    """The child: train on ``path`` within the limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    store = CheckpointStore(path.parent / f"trainings_{path.stem}")
    receipts = train(ImageSet.open(path), store, Tracker(), settings(steps))
    assert read_log(receipts.training_log.path)[-1]["step"] == steps


def memory_of(pid: int) -> dict[str, int]:
    """RssAnon, RssFile and VmData of a process in bytes; nothing when it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        wanted = ("RssAnon", "RssFile", "VmData")
        return {key: 1024 * int(facts[key].split()[0]) for key in wanted if key in facts}
    return {}


@contextlib.contextmanager
def limited_group(parent: Path, limit_bytes: int) -> Iterator[Path]:
    """A memory cgroup of ``limit_bytes`` in all and no swap, of version 1 or 2, removed again."""
    group = parent / f"ddpm_kedro_{os.getpid()}"
    group.mkdir()
    try:
        version_2 = (group / "memory.max").exists()
        (group / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(
            str(limit_bytes)
        )
        swap = ("memory.swap.max", 0) if version_2 else ("memory.memsw.limit_in_bytes", limit_bytes)
        if (group / swap[0]).exists():
            (group / swap[0]).write_text(str(swap[1]))
        yield group
    finally:
        group.rmdir()


def most_used(group: Path) -> int | None:
    """The most that a cgroup ever held, in bytes."""
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        with contextlib.suppress(OSError):
            return int((group / name).read_text())
    return None


def forget_pages(path: Path) -> None:
    """Write a file's pages to disk and out of the page cache, so that its reader is charged."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(path: Path, steps: int, limit_bytes: int, cgroup: Path | None) -> dict[str, Any]:
    """Train on ``path`` in a child, watched until it ends."""
    command = [sys.executable, __file__, "--train", str(path), "--steps", str(steps)]
    samples: list[dict[str, int]] = []
    forget_pages(path)
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(limited_group(cgroup, limit_bytes)) if cgroup else None
        join = None if group is None else f'echo $$ > "{group}/cgroup.procs" && '
        child = subprocess.Popen(
            ["sh", "-c", f'{join or ""}exec "$@"', "sh", *command,
             "--limit-gb", str(limit_bytes / 1e9)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while child.poll() is None:
            sample = memory_of(child.pid)
            if sample:
                samples.append(sample)
            time.sleep(POLL_SECONDS)
        if child.returncode != 0:
            raise SystemExit(f"the training of {path.name} ended with {child.returncode}")
        in_group = None if group is None else most_used(group)
    return {
        "peak_of_cgroup_bytes": in_group,
        "samples": len(samples),
        "peak_rss_anon_bytes": max(sample["RssAnon"] for sample in samples),
        "peak_rss_file_bytes": max(sample["RssFile"] for sample in samples),
        "peak_data_bytes": max(sample["VmData"] for sample in samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--limit-gb", type=float, default=1.5, help="10^9 bytes, of RLIMIT_DATA")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cgroup", type=Path, help="a memory cgroup to limit trainings below")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where image sets go, on a real disk")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    limit_bytes = int(arguments.limit_gb * 1e9)
    if arguments.train is not None:
        train_here(arguments.train, arguments.steps, limit_bytes)
        return

    described = machine(torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="memory_") as folder:
        paths = {count: Path(folder) / f"{count}.safetensors" for count in arguments.images}
        for count, path in paths.items():
            write_images(path, count)
        for repeat in range(arguments.repeats):
            for count, path in paths.items():
                copy = path.with_stem(f"{count}_{repeat}")
                os.link(path, copy)  # a name of its own, so that each training is a new one
                found = measure(copy, arguments.steps, limit_bytes, arguments.cgroup)
                rows.append({"num_images": count, "bytes": path.stat().st_size, **found})
    first, last = arguments.images[0], arguments.images[-1]
    peak = {
        count: sorted(r["peak_rss_anon_bytes"] for r in rows if r["num_images"] == count)[
            (arguments.repeats - 1) // 2
        ]
        for count in (first, last)
    }
    growth = peak[last] / peak[first] - 1
    save_results(
        "memory",
        {
            "machine": described,
            "versions": versions(),
            "steps": arguments.steps,
            "batch_size": BATCH_SIZE,
            "limit": {
                "kind": "RLIMIT_DATA" + (" and cgroup" if arguments.cgroup else ""),
                "bytes": limit_bytes,
            },
            "growth_of_median_peak_rss_anon": growth,
            "rows": rows,
        },
        arguments.results,
    )
    keys = ("bytes", "peak_rss_anon_bytes", "peak_data_bytes", "peak_rss_file_bytes")
    table = [
        [
            f"{row['num_images']:,}",
            *(row[key] / MIB for key in keys),
            row["peak_of_cgroup_bytes"] and row["peak_of_cgroup_bytes"] / MIB,
        ]
        for row in rows
    ]
    header = ("images", "file MiB", "RssAnon MiB", "VmData MiB", "RssFile MiB", "cgroup MiB")
    print(markdown_table(header, table))
    print(f"RssAnon grows by {growth:.1%} from {first:,} to {last:,} images")


if __name__ == "__main__":
    main()
