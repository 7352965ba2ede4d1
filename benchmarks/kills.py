"""Trainings killed with SIGKILL at random moments and resumed end in the bytes of one never killed.

    python benchmarks/kills.py --runs 50

Each run trains in a process of its own, is killed at a random moment after its first log record
(checkpoints follow one another closely, so many kills fall into the writing of one), is started
again, and its model file and its log (but for timings) are compared with an undisturbed run's.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measurement import machine, save_results, versions

ROOT = Path(__file__).parents[1]
TIMINGS = ("images_per_second", "elapsed_seconds")
CHOICES = {
    "backbone": {"type": "tiny_training.TinyNetwork", "dropout": 0.3, "width": 64},
    "budget_kimg": 4.0,
    "log_every_kimg": 0.04,
    "checkpoint_every_kimg": 0.12,
    "preview_every_kimg": 0.4,
    "ema": {"halflives_kimg": [0.05, 0.2], "warmup_ratio": 0.05},
}


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--train", str(folder)])


def train(folder: Path) -> None:
    """One training, or the rest of one, in this process."""
    sys.path[:0] = [str(ROOT / "tests" / "training"), str(ROOT / "src")]
    from tiny_training import run

    torch.set_num_threads(1)
    run(folder, **CHOICES)


def outcome(folder: Path) -> tuple[bytes, list[dict[str, object]]]:
    (model,) = folder.glob("*/model.safetensors")
    (log,) = folder.glob("*/training_log.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return model.read_bytes(), [
        {key: value for key, value in record.items() if key not in TIMINGS} for record in records
    ]


def killed_and_resumed(folder: Path, seconds: float) -> str:
    """Kill a training ``seconds`` after its first record and resume it; where the kill fell."""
    process = start(folder)
    while not any(log.stat().st_size for log in folder.glob("*/training_log.jsonl")):
        if process.poll() is not None:
            raise SystemExit(
                f"the training ended with {process.returncode} before its first record"
            )
        time.sleep(0.005)
    time.sleep(seconds)
    if process.poll() is not None:
        return "after its end"
    process.kill()
    process.wait()
    writing = any(path.name.startswith(".") for path in folder.glob("*/checkpoints/*"))
    if start(folder).wait() != 0:
        return "and could not be resumed"
    return "while a checkpoint was written" if writing else "between checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        began = time.monotonic()
        if start(root / "undisturbed").wait() != 0:
            raise SystemExit("the undisturbed training failed")
        undisturbed = outcome(root / "undisturbed")
        first, last = (
            json.loads(line)["elapsed_seconds"]
            for line in (next((root / "undisturbed").glob("*/training_log.jsonl")))
            .read_text()
            .splitlines()[:: len(undisturbed[1]) - 1]
        )
        span = max(last - first, 0.5)
        print(f"undisturbed: {time.monotonic() - began:.1f} s, {span:.1f} s of it training")
        where: dict[str, int] = {}
        identical = 0
        for number in range(arguments.runs):
            folder = root / str(number)
            moment = killed_and_resumed(folder, draw.uniform(0, 0.9 * span))
            same = outcome(folder) == undisturbed
            identical += same
            where[moment] = where.get(moment, 0) + 1
            print(
                f"run {number}: killed {moment}, {'identical' if same else 'DIFFERENT'}", flush=True
            )
    print(f"{identical} of {arguments.runs} identical; killed: {where}")
    save_results(
        "kills",
        {
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "runs": arguments.runs,
            "identical": identical,
            "killed": where,
            "training_seconds": span,
        },
    )
    if identical < arguments.runs:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
