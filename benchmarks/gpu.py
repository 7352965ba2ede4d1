"""Everything that only a GPU can show, in one go of at most ten minutes, a short table last.

    python benchmarks/gpu.py

Tests marked ``cuda``, the training step at batch 128 and 512, sampling, and where the time of a
step goes, kernel by kernel. Each part is a process of its own with a time limit, the ones that
matter most first; what does not fit into ``--minutes`` is left out and said so. Without a GPU it
runs the same parts with small sizes, to try it. Results go into ``--results``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trainers
from measurement import (
    RESULTS,
    chosen_device,
    machine,
    markdown_table,
    save_results,
    versions,
    wait_for,
)

HERE = Path(__file__).parent
PROFILED_STEPS = 5
SHOWN_KERNELS = 15


def parts(device: torch.device, results: Path) -> list[tuple[str, int, list[str]]]:
    """Name, time limit in seconds and command line of each part."""
    to = ["--results", str(results)]
    step, draw = str(HERE / "training_step.py"), str(HERE / "sampling.py")
    profile = [str(HERE / "gpu.py"), "--profile", *to]
    tests = ["-m", "pytest", "-m", "cuda", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
    if device.type != "cuda":
        small = ["--networks", "ddpm_small", "--batch-sizes", "16", "--rounds", "2", "--no-memory"]
        return [
            ("tests", 120, [*tests, str(HERE.parent / "tests" / "training" / "test_step.py")]),
            ("training step", 240, [step, *small, *to]),
            ("sampling", 120, [draw, "--network", "ddpm_small", "--num-samples", "4",
                               "--batch-size", "4", "--num-steps", "2", "--rounds", "2", *to]),
            ("profile", 120, [*profile, "--network", "ddpm_small", "--batch-size", "4"]),
        ]  # fmt: skip
    ours = ["ours", "ours, graph only", "diffusers", "diffusers bf16", "diffusers bf16 tuned"]
    return [
        ("step ddpm 128", 210, [step, "--networks", "ddpm", "--batch-sizes", "128",
                                "--rounds", "10", "--seconds", "40", "--name",
                                "training_step_cuda_ddpm_128", *to]),
        ("tests", 90, [*tests, str(HERE.parent / "tests")]),
        ("step ddpm 512", 150, [step, "--networks", "ddpm", "--batch-sizes", "512", "--only",
                                *ours, "--steps-per-turn", "4", "--rounds", "6", "--seconds", "40",
                                "--name", "training_step_cuda_ddpm_512", *to]),
        ("profile", 100, [*profile, "--network", "ddpm", "--batch-size", "512"]),
        ("step homework", 150, [step, "--networks", "homework", "--batch-sizes", "128", "512",
                                "--only", "ours", "ours, graph only", "homework loop",
                                "homework loop bf16", "--rounds", "6", "--seconds", "20",
                                "--name", "training_step_cuda_homework", *to]),
        ("sampling", 180, [draw, "--rounds", "3", "--seconds", "40", "--num-samples", "2048",
                           "--whole", "50000", *to]),
    ]  # fmt: skip


def profile(options: argparse.Namespace) -> None:
    """Kernels of our own step by time, into ``profile_<device>.json``."""
    device = chosen_device()
    step, precision = trainers.engine(options.network, options.batch_size, device)
    trainers.several(step, 6 if device.type == "cuda" else 2)()
    wait_for(device)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    steps = PROFILED_STEPS if device.type == "cuda" else 2
    with torch.profiler.profile(activities=activities) as profiler:
        started_at = time.perf_counter()
        trainers.several(step, steps)()
        wait_for(device)
        seconds = time.perf_counter() - started_at
    on_gpu = device.type == "cuda"

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
    save_results(
        f"profile_{device.type}",
        {
            "machine": machine(device),
            "versions": versions(),
            "network": options.network,
            "batch_size": options.batch_size,
            "precision": precision.name,
            "wall_ms_per_step": 1000 * seconds / steps,
            "busy_ms_per_step": total / 1000 / steps,
            "kernels_per_step": sum(event.count for event in events) / steps,
            "kernels": kernels[:40],
        },
        options.results,
    )


def report(results: Path, device: torch.device, outcomes: Sequence[tuple[str, str]]) -> str:
    """The short table: what each part said."""
    lines = [markdown_table(["part", "outcome"], outcomes), ""]
    rows = []
    for path in sorted(results.glob(f"training_step_{device.type}*.json")):
        for result in json.loads(path.read_text())["results"]:
            for row in result["contenders"]:
                rows.append(
                    [
                        f"train {result['network']} {result['batch_size']}",
                        row["name"],
                        row["images_per_second"]["median"],
                        f"{row['share_of_bf16_product']:.1%}",
                        row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e9,
                    ]
                )
    sampled = results / f"sampling_{device.type}.json"
    if sampled.exists():
        result = json.loads(sampled.read_text())
        rows += [
            [f"sample {result['network']} {result['num_steps']} steps", row["name"],
             row["images_per_second"]["median"],
             f"{row['share_of_product_in_its_precision']:.1%}", None]
            for row in result["contenders"]
        ]  # fmt: skip
        if "whole" in result:
            lines.append("{num_samples} samples in {seconds:.1f} s\n".format(**result["whole"]))
    header = ["work", "contender", "images/s", "share of the product", "peak memory, GB"]
    lines += [markdown_table(header, rows), ""]
    profiled = results / f"profile_{device.type}.json"
    if profiled.exists():
        result = json.loads(profiled.read_text())
        lines += [
            f"a step of {result['network']} at batch {result['batch_size']}: "
            f"{result['wall_ms_per_step']:.1f} ms, {result['busy_ms_per_step']:.1f} ms busy, "
            f"{result['kernels_per_step']:.0f} kernels",
            markdown_table(
                ["kernel", "calls", "ms", "share"],
                [
                    [k["name"][:60].replace("|", "/"), k["calls_per_step"], k["ms_per_step"],
                     f"{k['share']:.1%}"]
                    for k in result["kernels"][:SHOWN_KERNELS]
                ],
            ),
        ]  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--only", nargs="+", default=None, help="names of parts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--profile", action="store_true", help="the profile alone")
    parser.add_argument("--network", default="ddpm")
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args(arguments)
    if options.profile:
        profile(options)
        return
    device = chosen_device()
    ends_at = time.monotonic() + 60 * options.minutes
    outcomes = []
    for name, limit, command in parts(device, options.results.resolve()):
        if options.only and name not in options.only:
            continue
        left = ends_at - time.monotonic()
        if left < 20:
            outcomes.append((name, "left out: the time was up"))
            continue
        print(f"--- {name}", flush=True)
        began_at = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *command], timeout=min(limit, left), check=False,
                capture_output=True, text=True, cwd=HERE.parent,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            outcomes.append((name, f"stopped after {time.monotonic() - began_at:.0f} s"))
            continue
        said = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["nothing said"]
        summary = said[-1] if name == "tests" else "done" if done.returncode == 0 else "failed"
        if done.returncode not in (0, 5):
            print("\n".join((done.stdout + done.stderr).splitlines()[-25:]), flush=True)
        outcomes.append((name, f"{summary} in {time.monotonic() - began_at:.0f} s"))
    print(report(options.results, device, outcomes), flush=True)


if __name__ == "__main__":
    main()
