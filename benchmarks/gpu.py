"""Everything that only a GPU can show, part by part, in calls that may be cut off; a table last.

    python benchmarks/gpu.py --photos CIFAR.parquet     again and again, until no part is left
    python benchmarks/gpu.py --table                    what is known so far

The parts and their order stand at the end of ``gpu_parts.py``. Each runs in a process of its own
with a time limit and writes ``<results>/gpu_<part>.json``, whole or not at all, as soon as it has
it; what is done for this code on this GPU is not done again. What could not be finished goes on
with the next call, what failed comes after what was never tried. Without a GPU, or with ``--tiny``
on the one of ``tests/null_gpu`` that computes nothing, everything is small: a rehearsal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # the project need not be installed

import torch
from gpu_parts import DONE, FAILED, LEFT_OUT, PARTS, UNFINISHED, Part, rehearse
from measurement import ROOT, chosen_device, machine, markdown_table, save_results, versions

from ddpm_kedro.training.stops import Stopped, die_with_parent

SECONDS_TO_END = 25  # that a part has for saving when it is asked to stop
FEWEST_SECONDS = 30  # below which no part is begun


def identity(tiny: bool) -> dict[str, Any]:
    """What a result belongs to: the code, the GPU, the sizes."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    device = chosen_device()
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "none"
    return {"code": digest.hexdigest()[:12], "gpu": gpu, "tiny": tiny}


def earlier(part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """The result of an earlier call, empty where there is none of this code, GPU and size."""
    try:
        found = json.loads((options.results / f"gpu_{part.name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    same = all(found.get(key) == value for key, value in options.identity.items())
    return found if same else {}


def write(part: Part, options: argparse.Namespace, outcome: str, said: str, **result: Any) -> None:
    """The part's file; a part that was not measured this time keeps what was known of it."""
    known = {} if result else earlier(part, options)
    known.pop("date", None)
    outcome_of = {**options.identity, "outcome": outcome, "said": said}
    save_results(f"gpu_{part.name}", {**known, **result, **outcome_of}, options.results)


def measure(part: Part, options: argparse.Namespace) -> None:
    """The part itself, in this process."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all blocks are left
    if options.tiny:
        rehearse()
    device = chosen_device()
    facts = {"machine": machine(device), "versions": versions()}
    began_at = time.time()
    try:
        result = part.measure(options)
    except Stopped as stop:
        write(part, options, UNFINISHED, str(stop))
        return
    outcome = result.pop("outcome", DONE)
    write(part, options, outcome, f"{time.time() - began_at:.0f} s", **facts, **result)


def run(part: Part, options: argparse.Namespace, left: float) -> None:
    """The part in a process of its own, and what became of it if that could not say.

    Args:
        part: what to run.
        options: of the command line.
        left: seconds of this call.
    """
    seconds = min(60 * part.minutes, left)
    log = options.work / f"{part.name}.log"
    began_at = time.time()
    command = [sys.executable, __file__, "--part", part.name, "--ends-at", str(began_at + seconds)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    quiet = {"PYTHONPATH": path, "WANDB_MODE": "disabled", "DO_NOT_TRACK": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, *options.handed_on], stdout=file, stderr=file, cwd=ROOT,
            env={**os.environ, **quiet}, start_new_session=True,
        )  # fmt: skip
    cut_off = ""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        # Its own limit would come again; the end of this call leaves it more time in the next one
        cut_off = UNFINISHED if seconds == left or part.goes_on else FAILED
    except KeyboardInterrupt:
        cut_off = UNFINISHED
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            lines = log.read_text(errors="replace").strip().splitlines()
            said = lines[-1][:200] if lines else f"ended with {process.returncode}"
            if cut_off:
                said = f"cut off after {time.time() - began_at:.0f} s"
            write(part, options, cut_off or FAILED, said)
            print("\n".join(lines[-15:]), flush=True)


def table(options: argparse.Namespace) -> str:
    """The last table: of each part what it measured, or why it did not."""
    rows = []
    for part in PARTS:
        found = earlier(part, options)
        said = f"{found['outcome']}: {found['said']}" if found else "not yet"
        rows.append([f"**{part.name}**", said, ""])
        rows += found.get("table", [])
    facts = ", ".join(f"{key} {value}" for key, value in options.identity.items())
    return f"{facts}\n\n{markdown_table(['what', 'measured', 'target'], rows)}"


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the small sizes where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--photos", type=Path, help="Parquet file or folder; a folder of pictures")
    parser.add_argument("--minutes", type=float, default=9.5, help="of this call")
    parser.add_argument("--kedro-minutes", type=float, default=4, help="of training in kedro run")
    parser.add_argument("--long-kimg", type=float, default=10_000, help="of the longer training")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    parser.add_argument("--table", action="store_true", help="only show what is known")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal with small sizes")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "gpu", help="trainings, logs")
    parser.add_argument("--results", type=Path, help="default: results in the folder of --work")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--ends-at", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.tiny |= chosen_device().type == "cpu"
    options.work = options.work.resolve()
    options.results = (options.results or options.work / "results").resolve()
    options.photos = options.photos and options.photos.resolve()
    if options.photos and not options.photos.exists():
        parser.error(f"--photos {options.photos}: there is nothing")
    options.identity = identity(options.tiny)
    options.handed_on = [
        "--work", str(options.work), "--results", str(options.results),
        "--kedro-minutes", str(options.kedro_minutes), "--long-kimg", str(options.long_kimg),
        *(["--photos", str(options.photos)] if options.photos else []),
        *(["--tiny"] if options.tiny else []),
    ]  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    ends_at = time.time()
    options = options_from(arguments)
    ends_at += 60 * options.minutes
    if options.part:
        measure(next(part for part in PARTS if part.name == options.part), options)
        return
    if options.table:
        print(table(options))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in PARTS if part.name in options.only]
    if options.again:
        for part in chosen:
            (options.results / f"gpu_{part.name}.json").unlink(missing_ok=True)
            shutil.rmtree(options.work / part.name, ignore_errors=True)
    outcomes = {part.name: earlier(part, options).get("outcome") for part in chosen}
    chosen.sort(key=lambda part: outcomes[part.name] == FAILED)
    try:
        for part in chosen:
            missing = part.missing(options)
            left = ends_at - time.time() - SECONDS_TO_END
            if outcomes[part.name] == DONE:
                print(f"--- {part.name}: done before", flush=True)
            elif missing:
                write(part, options, LEFT_OUT, f"needs {missing}")
            elif left >= FEWEST_SECONDS:
                print(f"--- {part.name}", flush=True)
                run(part, options, left)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        print(table(options), flush=True)


if __name__ == "__main__":
    main()
