"""Training beside another busy process: OpenMP threads in each operation against lanes.

    python benchmarks/busy.py

Each network takes its training step with as many OpenMP threads as cores (``training.lanes=1``) and
in as many lanes, alone and beside one process that spins, in turns. Refuses to start while anything
else is at work. Writes ``benchmarks/results/busy.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trainers
from measurement import (
    RESULTS,
    Contender,
    machine,
    markdown_table,
    save_results,
    take_turns,
    versions,
)

from ddpm_kedro.diffusion.lanes import Lanes
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.precision import choose_precision
from ddpm_kedro.heap import kept_heap
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.step.acceleration import make_step
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

COMPACT = {"type": f"{trainers.OURS}.diffusion.backbones.CompactUNet"}
NETWORKS: dict[str, dict[str, Any]] = {
    "digits": {  # conf/base
        "shape": (1, 8, 8), "batch_size": 128, "steps": 40,
        "backbone": {**COMPACT, "base_channels": 32, "channel_mults": [1, 2]},
    },
    "fashion_mnist": {  # conf/fashion_mnist
        "shape": (1, 28, 28), "batch_size": 128, "steps": 2,
        "backbone": {**COMPACT, "base_channels": 64, "channel_mults": [1, 2, 2],
                     "blocks_per_level": 2, "attention_levels": [2], "dropout": 0.1},
    },
    "ddpm": {
        "shape": (3, 32, 32), "batch_size": 16, "steps": 3,
        "backbone": trainers.NETWORKS["ddpm"],
    },
}  # fmt: skip
MOST_LOAD = 0.05  # of one core, by others, before the measurement
SPINNING = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
WAYS = ("OpenMP threads", "lanes")


def steps_of(network: str, num_lanes: int) -> tuple[Callable[[], None], Lanes]:
    """Something that takes a turn's steps as ``TrainingRun`` takes them, and its lanes."""
    choice = NETWORKS[network]
    device, batch_size = torch.device("cpu"), choice["batch_size"]
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch_size, *choice["shape"]), dtype=np.uint8
    )
    settings = trainers.settings_for("compact", batch_size, backbone=choice["backbone"])
    precision, lanes = choose_precision("auto", device), Lanes(num_lanes)
    torch.manual_seed(0)
    model = Model(model_spec(ImageSet(pixels, None, ()), settings))
    model.network.train()
    state = LearningState(model, settings)
    step = make_step(state, precision, Team(), lanes=lanes)
    images = torch.from_numpy(pixels)

    def turn() -> None:
        with precision.product_mode(), kept_heap():
            for _ in range(choice["steps"]):
                with lanes.alone():
                    state.set_rates()
                    step(images, None)
                    state.advance()

    return turn, lanes


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Another process that never waits, of the same priority."""
    process = subprocess.Popen([sys.executable, "-c", SPINNING])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def cores_in_use(seconds: float = 3.0) -> float:
    """How many cores all processes keep busy now, on Linux; this one sleeps meanwhile."""

    def ticks() -> tuple[int, int]:
        numbers = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]

    (total, idle), _ = ticks(), time.sleep(seconds)
    later_total, later_idle = ticks()
    share = 1 - (later_idle - idle) / max(later_total - total, 1)
    return share * machine(torch.device("cpu"))["cores"]


def measure(network: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Images a second in either way, alone and beside the neighbour."""
    cores = torch.get_num_threads()
    choice = NETWORKS[network]
    contenders, all_lanes = [], []
    for way, num_lanes in zip(WAYS, (1, cores), strict=True):
        turn, lanes = steps_of(network, num_lanes)
        all_lanes.append(lanes)
        turn()
        for beside in (False, True):
            facts = {"way": way, "lanes": num_lanes, "beside_a_busy_process": beside}
            name = f"{way}, {'beside' if beside else 'alone'}"
            images = choice["steps"] * choice["batch_size"]
            surroundings = busy_neighbour if beside else contextlib.nullcontext
            contenders.append(Contender(name, facts, turn, images, surroundings=surroundings))
    contenders.sort(key=lambda contender: contender.facts["beside_a_busy_process"])
    take_turns(contenders, torch.device("cpu"), rounds, seconds)
    for lanes in all_lanes:
        lanes.close()
    alone, in_lanes, beside, in_lanes_beside = (contender.rate for contender in contenders)
    return {
        "network": network,
        "batch_size": choice["batch_size"],
        "precision": choose_precision("auto", torch.device("cpu")).name,
        "contenders": [contender.summary("images") for contender in contenders],
        "lanes_alone_to_openmp_alone": in_lanes / alone,
        "openmp_beside_to_openmp_alone": beside / alone,
        "lanes_beside_to_openmp_alone": in_lanes_beside / alone,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=600, help="for each network, at most")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--anyway", action="store_true", help="even if the machine is in use")
    arguments = parser.parse_args()
    in_use = cores_in_use()
    if in_use > MOST_LOAD and not arguments.anyway:
        sys.exit(f"other processes keep {in_use:.2f} cores busy: wait, or give --anyway")
    results = []
    for network in arguments.networks:
        results.append(measure(network, arguments.rounds, arguments.seconds))
        print(table(results[-1:]), flush=True)
    found = {
        "machine": {**machine(torch.device("cpu")), "cores_in_use_before": round(in_use, 3)},
        "versions": versions(),
        "results": results,
    }
    print(save_results("busy", found, arguments.results))


def table(results: list[dict[str, Any]]) -> str:
    """Medians in images a second, a row for each network and way."""
    rows = []
    for result in results:
        rates = {
            (row["way"], row["beside_a_busy_process"]): row["images_per_second"]["median"]
            for row in result["contenders"]
        }
        reference = rates[WAYS[0], False]
        rows += [
            [
                f"{result['network']}, batch {result['batch_size']}, {result['precision']}",
                way,
                rates[way, False],
                f"{rates[way, False] / reference:.0%}",
                rates[way, True],
                f"{rates[way, True] / reference:.0%}",
            ]
            for way in WAYS
        ]
    header = ["network", "way", "alone", "of OpenMP alone", "beside", "of OpenMP alone"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
