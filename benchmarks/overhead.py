"""What records, hook and progress bar add to a step, against a bare loop with the same step.

    python benchmarks/overhead.py --networks ddpm compact

The training is ``TrainingRun``'s own loop with a tracker and a progress bar. Between two of its
steps, where it asks whether to stop, a twin takes the same step without any of that, so both see
the same machine. Writes ``benchmarks/results/overhead_<device>.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trainers
import yaml
from measurement import (
    RESULTS,
    chosen_device,
    machine,
    markdown_table,
    save_results,
    versions,
    wait_for,
)

from ddpm_kedro.hooks.wandb_recording import Recording
from ddpm_kedro.hooks.wandb_settings import WandbSettings
from ddpm_kedro.training.loop import TrainingRun
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.train import model_spec
from ddpm_kedro.training.workers.team import Team

BATCH_SIZES = {"ddpm": 16, "homework": 16, "ddpm_small": 4, "compact": 16}


class Terminal(io.StringIO):
    """A terminal for the progress bar to draw on."""

    def isatty(self) -> bool:
        return True


class Sink:
    """Stands for a hook's sink: keeps every record as the text it would send."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def record(self, record: Mapping[str, Any]) -> None:
        self.sent.append(json.dumps(record))

    def preview(self, path: Path, record: Mapping[str, Any]) -> None:
        self.sent.append(str(path))

    def note(self, key: str, value: Any) -> None:
        self.sent.append(str(value))


def wandb_sink(folder: Path) -> Recording:
    """The W&B hook's own recording, offline: its service runs in a process beside this one."""
    config = Path(__file__).parents[1] / "conf" / "base" / "wandb.yml"
    settings = WandbSettings.from_config(yaml.safe_load(config.read_text()))
    return Recording(settings, "offline", folder, {})


def measure(network: str, num_steps: int, records_every: int, sink_kind: str) -> dict[str, Any]:
    """Seconds a step in the engine's loop and in the bare one, step after step in turns."""
    device, batch_size = chosen_device(), BATCH_SIZES[network]
    settings = trainers.settings_for(
        network,
        batch_size,
        log_every_kimg=records_every * batch_size / 1000,
        checkpoint_every_kimg=50_000,
        compile="off",
    )
    images = trainers.random_images(2048)
    bare, _ = trainers.engine(network, batch_size, device, compile="off")
    with_loop: list[tuple[float, float]] = []  # on the wall, of the processor
    without: list[tuple[float, float]] = []
    returned_at = now()

    def asked_to_stop() -> int:
        nonlocal returned_at
        wait_for(device)
        with_loop.append(since(returned_at))
        started_at = now()
        bare()
        wait_for(device)
        without.append(since(started_at))
        returned_at = now()
        return signal.SIGINT if len(without) >= num_steps else 0

    terminal, stderr = Terminal(), sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker()
        sink = wandb_sink(Path(folder)) if sink_kind == "wandb" else Sink()
        tracker.attach(sink)
        store = CheckpointStore(Path(folder) / "checkpoints")
        shaping = settings.shaping(images.content_hash)
        with store.open(shaping, {}, settings.budget_images) as training_folder:
            run = TrainingRun(
                images, training_folder, tracker, settings, model_spec(images, settings), Team()
            )
            sys.stderr = terminal
            try:
                run(asked_to_stop)
            finally:
                sys.stderr = stderr
                if isinstance(sink, Recording):
                    sink.finish(exit_code=0)
    skipped = min(5, num_steps // 4)
    with_loop, without = with_loop[skipped:], without[skipped:]
    wall, processor = (
        {
            "bare_seconds": statistics.median(b[clock] for b in without),
            "loop_seconds": statistics.median(a[clock] for a in with_loop),
            "median_difference_seconds": statistics.median(
                a[clock] - b[clock] for a, b in zip(with_loop, without, strict=True)
            ),
        }
        for clock in (0, 1)
    )
    return {
        "network": network,
        "batch_size": batch_size,
        "sink": sink_kind,
        "steps_between_records": records_every,
        "steps": len(without),
        "wall": wall,
        "processor": processor,
        "overhead": wall["median_difference_seconds"] / wall["bare_seconds"],
        "drawn_characters": len(terminal.getvalue()),
    }


def now() -> tuple[float, float]:
    """The clock on the wall, and the seconds that this process's threads have worked."""
    return time.perf_counter(), time.process_time()


def since(earlier: tuple[float, float]) -> tuple[float, float]:
    """Both clocks' seconds since ``earlier``."""
    wall, processor = now()
    return wall - earlier[0], processor - earlier[1]


def pieces(num_records: int = 2000) -> dict[str, float]:
    """Seconds that one record, and one step of the progress bar, take by themselves."""
    from ddpm_kedro.progress import Progress

    record = {
        "step": 1, "images_seen": 16, "epoch": 0.1, "loss": 0.123, "lr": 1e-4, "grad_norm": 1.0,
        "skipped_updates": 0, "images_per_second": 10.0, "elapsed_seconds": 1.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker()
        tracker.attach(Sink())
        tracker.open(Path(folder) / "training_log.jsonl", after_step=0)
        started_at = time.perf_counter()
        for _ in range(num_records):
            tracker.record(record)
        per_record = (time.perf_counter() - started_at) / num_records
        tracker.close()
    stderr, sys.stderr = sys.stderr, Terminal()
    try:
        with Progress(num_records, "images", "training") as progress:
            started_at = time.perf_counter()
            for _ in range(num_records):
                progress.update(1, loss=0.1)
            per_update = (time.perf_counter() - started_at) / num_records
    finally:
        sys.stderr = stderr
    return {"seconds_per_record": per_record, "seconds_per_progress_update": per_update}


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["ddpm", "compact"])
    parser.add_argument("--sinks", nargs="+", default=["sink", "wandb"])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--records-every", type=int, default=1, help="steps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    logging.getLogger("ddpm_kedro").setLevel(logging.ERROR)
    device = chosen_device()
    facts = {"machine": machine(device), "versions": versions()}
    results = []
    for network in options.networks:
        for sink in options.sinks:
            steps = options.steps or (200 if network == "compact" else 25)
            results.append(measure(network, steps, options.records_every, sink))
            print(results[-1], flush=True)
            so_far = {**facts, "pieces": pieces(), "results": results}
            save_results(f"overhead_{device.type}", so_far, options.results)
    print(
        markdown_table(
            ["network", "sink", "bare step, ms", "engine's step, ms", "overhead"],
            [
                [
                    f"{row['network']}, batch {row['batch_size']}",
                    row["sink"],
                    1000 * row["wall"]["bare_seconds"],
                    1000 * row["wall"]["loop_seconds"],
                    f"{row['overhead']:+.2%}",
                ]
                for row in results
            ],
        )
    )


if __name__ == "__main__":
    main()
