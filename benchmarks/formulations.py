"""Every formulation with nothing else set: `kedro run --params formulation=...` on digits, scored.

    python benchmarks/formulations.py --seeds 3

Each run is a whole one, at the default budget, in a data_root of its own. One that stands in
``results/formulations.json`` is not made again, and a training that was stopped goes on. The score
is the Frechet distance as a multiple of the floor, what a perfect model would get. The table goes
into ``docs/formulations.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from measurement import RESULTS, chosen_device, machine, markdown_table, save_results, versions
from page import replace_section

from ddpm_kedro.diffusion.model import load_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formulations.md"
TARGET = 1.3  # times the floor, for every formulation and every seed


def formulations() -> dict[str, dict[str, str]]:
    """The table of ``conf/base``."""
    path = ROOT / "conf" / "base" / "parameters" / "formulations.yml"
    return yaml.safe_load(path.read_text())["formulations"]


def run_and_score(formulation: str, seed: int, data_root: Path, params: Sequence[str]) -> dict:
    """One `kedro run` with all its stages, and what came of it.

    Raises:
        SystemExit: the run failed; its last lines are printed.
    """
    given = [
        f"formulation={formulation}",
        f"seed={seed}",
        f"sampling.seed={seed}",
        f"data_root={data_root / f'{formulation}_{seed}'}",
        f"prepared_root={data_root / 'prepared'}",
        *params,
    ]
    started_at = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--params", ",".join(given)],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{formulation}, seed {seed}: {(done.stdout + done.stderr)[-2000:]}")
    seconds = time.monotonic() - started_at
    folder = data_root / f"{formulation}_{seed}"
    metrics = json.loads((folder / "08_reporting" / "metrics.json").read_text())
    return {
        "frechet_ratio": metrics["frechet_ratio"],
        "frechet_distance": metrics["frechet_at_n"],
        "network_calls": network_calls(folder / "06_models" / "model.safetensors"),
        "seconds": round(seconds, 1),
    }


def network_calls(path: Path) -> int:
    """How often a model's network is called to draw an image with the model's own sampler."""
    model, calls = load_model(path), []
    hook = model.network.register_forward_hook(lambda *_: calls.append(1))
    model.sample(1, compile="off")
    hook.remove()
    return len(calls)


def table(cells: dict[str, Any], seeds: int) -> str:
    """One row a formulation; runs not made yet are a dash."""
    rows = []
    for name, parts in formulations().items():
        found = [cells[key] for seed in range(seeds) if (key := f"{name} seed {seed}") in cells]
        ratios = [cell["frechet_ratio"] for cell in found]
        rows.append(
            [
                f"`{name}`",
                *(f"`{parts[part]}`" for part in ("noise_schedule", "objective",
                                                  "timestep_sampling", "loss_weight", "sampler")),
                found[0]["network_calls"] if found else None,
                ", ".join(f"{ratio:.2f}" for ratio in ratios) or None,
                ("yes" if max(ratios) <= TARGET else "no") if ratios else None,
                sum(cell["seconds"] for cell in found) / len(found) if found else None,
            ]
        )  # fmt: skip
    return markdown_table(
        ["formulation", "noise schedule", "objective", "times", "loss weight", "sampler",
         "network calls", "times the floor, each seed", f"within {TARGET}", "seconds of a run"],
        rows,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="formulations to run; all of them otherwise")
    parser.add_argument("--params", nargs="*", default=[], help="further ones, for trying out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "ddpm_kedro_formulations",
        help="where the data_roots are kept between calls",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    protocol = {"formulations": formulations(), "params": options.params}
    path, cells = options.results / "formulations.json", {}
    if path.exists():
        earlier = json.loads(path.read_text())
        if earlier["protocol"] == protocol:
            cells = earlier["cells"]
    for seed in range(options.seeds):
        for name in options.only or formulations():
            key = f"{name} seed {seed}"
            if key in cells:
                continue
            cells[key] = run_and_score(name, seed, options.work, options.params)
            print(key, cells[key], flush=True)
            save_results(
                "formulations",
                {
                    "machine": machine(chosen_device()),
                    "versions": versions(),
                    "protocol": protocol,
                    "target": TARGET,
                    "cells": cells,
                },
                options.results,
            )
    text = table(cells, options.seeds)
    print(text)
    if options.results == RESULTS:
        replace_section(PAGE, "formulations", text)


if __name__ == "__main__":
    main()
