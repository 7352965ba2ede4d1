"""What every benchmark needs: turns that interleave, the machine's facts, results as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ddpm_kedro
from ddpm_kedro.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "torchvision", "numpy", "diffusers", "denoising-diffusion-pytorch",
            "accelerate", "ema-pytorch", "scikit-learn")  # fmt: skip
PRODUCT_SIDE = {"cuda": 8192, "cpu": 1536}

# What a training does beside learning, for benchmarks that measure something else
PLAIN_TRAINING: dict[str, Any] = {
    "max_minutes": None, "restart": False, "precision": "auto", "compile": "auto", "device": "auto",
    "micro_batch_size": None, "lanes": None, "init_from": None, "clip_norm": None,
    "conditional": False, "label_dropout": 0.0, "held_out_fraction": 0.0, "held_out_images": 1024,
    "log_every_kimg": 10.0, "preview_every_kimg": None, "checkpoint_every_kimg": 100.0,
    "score_every_kimg": None, "features": {"type": "ddpm_kedro.PrincipalComponents"},
    "keep_checkpoints": 3, "keep_trainings": None, "num_previews": 64, "max_skipped_updates": 50,
    "distributed": {
        "workers": 1, "nodes": 1, "rendezvous": None, "wait_minutes": 10, "max_restarts": 3,
    },
}  # fmt: skip


@dataclass
class Contender:
    """Something that is timed in turns with others.

    Attributes:
        name: of the row in the table.
        facts: what distinguishes it: network, precision, settings.
        turn: does ``units_per_turn`` units of work; need not wait for the device.
        units_per_turn: images (or FLOP) of one turn.
        seconds: of each turn measured so far.
        processor_seconds: of all threads in each turn. On a machine shared with others this moves
            far less than the clock on the wall, as long as there is one thread (two of them spin
            while they wait for each other).
        peak_bytes: of device memory, over building and warming up; None where unknown.
        warm_up: done before each turn and not timed, or None.
        surroundings: makes what each turn and its warm-up run inside of.
    """

    name: str
    facts: Mapping[str, Any]
    turn: Callable[[], object]
    units_per_turn: float
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    processor_seconds: list[float] = field(default_factory=list)
    warm_up: Callable[[], object] | None = None
    surroundings: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    @property
    def rates(self) -> list[float]:
        """Units per second of each turn."""
        return [self.units_per_turn / seconds for seconds in self.seconds]

    @property
    def rate(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    def summary(self, unit: str) -> dict[str, Any]:
        """A row of results: median, quartiles, extremes and every single turn."""
        rates = sorted(self.rates)
        quartiles = statistics.quantiles(rates, n=4) if len(rates) > 1 else [rates[0]] * 3
        return {
            "name": self.name,
            **self.facts,
            f"{unit}_per_second": {
                "median": self.rate,
                "lower_quartile": quartiles[0],
                "upper_quartile": quartiles[2],
                "min": rates[0],
                "max": rates[-1],
            },
            f"{unit}_per_processor_second": self.units_per_turn
            / statistics.median(self.processor_seconds),
            "turns": len(rates),
            "seconds_of_turns": [round(seconds, 5) for seconds in self.seconds],
            "peak_memory_bytes": self.peak_bytes,
        }


def chosen_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def device_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """What was allocated at most inside, beyond what was there before; None on a CPU."""
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before


def take_turns(
    contenders: Sequence[Contender], device: torch.device, rounds: int, seconds: float
) -> None:
    """A B C A B C ...: a slow minute of the machine then slows all of them alike.

    Args:
        contenders: warmed up already; their ``seconds`` grow.
        device: waited for before and after each turn.
        rounds: turns of each, at most.
        seconds: after so long no further round begins (two are taken in any case).
    """
    began_at = time.perf_counter()
    for number in range(rounds):
        if number >= 2 and time.perf_counter() - began_at > seconds:
            break
        for contender in contenders:
            with contender.surroundings():
                if contender.warm_up is not None:
                    contender.warm_up()
                wait_for(device)
                started_at, processor_before = time.perf_counter(), time.process_time()
                contender.turn()
                wait_for(device)
                contender.seconds.append(time.perf_counter() - started_at)
                contender.processor_seconds.append(time.process_time() - processor_before)


def matrix_products(device: torch.device) -> list[Contender]:
    """Square products in bf16 and fp32, timed among the others: the peak that shares refer to."""
    side = PRODUCT_SIDE[device.type]
    return [_product(name, dtype, side, device) for name, dtype in _PRODUCTS.items()]


_PRODUCTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def _product(name: str, dtype: torch.dtype, side: int, device: torch.device) -> Contender:
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    repeats = 20 if device.type == "cuda" else 4
    out = torch.empty_like(left)

    def turn() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=out)

    turn()
    facts = {"precision": name, "side": side}
    return Contender(f"matrix product {name}", facts, turn, 2.0 * side**3 * repeats)


def peak_host_bytes() -> int:
    """The most memory that this process ever held, on Linux.

    Not from getrusage, whose figure begins with that of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def host_memory_of(script: str, arguments: Sequence[str]) -> int | None:
    """Peak memory of ``script``, run by itself: its last line says it; None if it failed."""
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    return int(lines[-1]) if done.returncode == 0 and lines and lines[-1].isdigit() else None


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, without names of hosts or paths."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_before": round(os.getloadavg()[0], 2),
        "system": platform.system(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python, this project and the packages measured."""
    found = {"python": platform.python_version(), "ddpm_kedro": ddpm_kedro.__version__}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def save_results(name: str, results: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``<folder>/<name>.json`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    stamped = {"benchmark": name, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    with atomic_write(path) as file:
        file.write(json.dumps({**stamped, **results}, indent=2).encode() + b"\n")
    return path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; floats with three significant digits."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
