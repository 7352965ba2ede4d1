"""What runs after a touch: `kedro run` and `dvc repro` beside each other, in clones of ours.

    python benchmarks/touches.py

A tiny run over a folder of pictures is made once; then one thing after another is touched, in both
clones, and the stages that ran are read from what was printed. Ends with 1 where others ran than
should. Needs the extra `dvc`; takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measurement import save_results, versions
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
STAGES = {
    "data_preparation": ("prepare_images",),
    "training": ("train_model", "tabulate_log"),
    "sampling": ("sample_images", "draw_grid"),
    "evaluation": ("evaluate_samples", "write_report"),
}
PREPARE, TRAIN, SAMPLE, EVALUATE = STAGES
COMMANDS = {"kedro run": ["kedro", "run"], "dvc repro": ["dvc", "repro"]}
PARAMS = "preset: smoke\ndataset: image_folder\nimage_path: data/01_raw/pictures\n"
SAMPLES = "data/07_model_output/samples.npy"
PREPARED = "train_images.safetensors"
PUBLISHED = f"data/05_model_input/{PREPARED}"


@dataclass(frozen=True)
class Touch:
    """Something done to a clone, the stages that have to run then, and an output that must be as
    before afterwards; DVC has it in its cache and runs nothing for it."""

    what: str
    do: Callable[[Path], object]
    stages: tuple[str, ...] = ()
    restored: str | None = None


def replaced(path: str, old: str, new: str) -> Callable[[Path], object]:
    def do(clone: Path) -> None:
        text = (clone / path).read_text()
        if old not in text:
            raise SystemExit(f"{path} has no {old!r}")
        (clone / path).write_text(text.replace(old, new, 1))

    return do


def flipped(pattern: str) -> Callable[[Path], object]:
    """The last byte of the newest file becomes another; its other names, links, keep theirs."""

    def do(clone: Path) -> None:
        path = max(clone.glob(pattern), key=lambda found: found.stat().st_mtime_ns)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.unlink()
        path.write_bytes(data)

    return do


def redrawn(clone: Path) -> None:
    path = clone / "data/01_raw/pictures/7.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


FRECHET = "src/ddpm_kedro/evaluation/frechet.py"
NODES = "src/ddpm_kedro/pipelines/sampling/nodes.py"
TOUCHES = (
    Touch("nothing", lambda clone: None),
    Touch("a comment in README", replaced("README.md", "\n", "\n<!-- touched -->\n")),
    Touch("a docstring in a node's module", replaced(NODES, '"""The', '"""Touched: the')),
    Touch(
        "a node's code",
        replaced(NODES, "    device = choose_device", "    _ = 0\n    device = choose_device"),
        (SAMPLE,),
    ),
    Touch(
        "a helper module's code",
        replaced(FRECHET, "    return max(", "    _ = 0\n    return max("),
        (EVALUATE,),
    ),
    Touch(
        "a base parameter that only sampling uses",
        replaced("conf/base/parameters.yml", "seed: 0\n  weights", "seed: 1\n  weights"),
        (SAMPLE, EVALUATE),
    ),
    Touch(
        "the optimizer's rate",
        replaced("conf/base/parameters/optimizers.yml", "Adam, lr: 3.0e-3", "Adam, lr: 2.0e-3"),
        (TRAIN, SAMPLE, EVALUATE),
    ),
    Touch(
        "an option of an optimizer that is not chosen",
        replaced("conf/base/parameters/optimizers.yml", "momentum: 0.9", "momentum: 0.8"),
    ),
    Touch("a raw file's content", redrawn, tuple(STAGES)),
    Touch("a raw file's time only", lambda clone: (clone / "data/01_raw/pictures/8.png").touch()),
    Touch("an output (altered)", flipped(SAMPLES), (SAMPLE,), SAMPLES),
    Touch("an output (deleted)", lambda clone: (clone / SAMPLES).unlink(), (SAMPLE,), SAMPLES),
    Touch("the store's copy (altered)", flipped(f"data/03_primary/[!.]*/{PREPARED}")),
    Touch("the published copy (altered)", flipped(PUBLISHED), (PREPARE,), PUBLISHED),
)


def ran(clone: Path, command: str) -> tuple[str, ...]:
    """The stages of which a node ran."""
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        COMMANDS[command],
        cwd=clone,
        env={**known, "WANDB_MODE": "disabled", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}")
    found = set(re.findall(r"(\w+) runs: ", done.stdout))
    return tuple(stage for stage, nodes in STAGES.items() if found.intersection(nodes))


def new_clone(folder: Path) -> Path:
    """A clone in which everything has run once, by DVC."""
    clone, pictures = folder / "dvc repro", folder / "dvc repro/data/01_raw/pictures"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    pictures.mkdir(parents=True)
    for number, digit in enumerate(load_digits().images[:256]):
        Image.fromarray((digit * 15).astype(np.uint8)).save(pictures / f"{number}.png")
    (clone / "params.yaml").write_text(PARAMS)
    if ran(clone, "dvc repro") != tuple(STAGES):
        raise SystemExit("the first `dvc repro` did not run every stage")
    return clone


def main() -> None:
    rows, is_right = [], True
    with tempfile.TemporaryDirectory() as folder:
        clones = {"dvc repro": new_clone(Path(folder)), "kedro run": Path(folder, "kedro run")}
        shutil.copytree(clones["dvc repro"], clones["kedro run"])
        for touch in TOUCHES:
            row: dict[str, object] = {"touched": touch.what}
            for command, clone in sorted(clones.items(), reverse=True):
                before = touch.restored and (clone / touch.restored).read_bytes()
                touch.do(clone)
                row[command] = stages = ran(clone, command)
                from_cache = command == "dvc repro" and touch.restored
                is_right &= stages == (() if from_cache else touch.stages)
                is_right &= before == (touch.restored and (clone / touch.restored).read_bytes())
            rows.append(row)
            print(json.dumps(row), flush=True)
    save_results("touches", {"versions": versions(), "rows": rows})
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
