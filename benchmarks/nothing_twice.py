"""Whatever a user did before, `kedro run` ends in the bytes of a run in a fresh folder.

    python benchmarks/nothing_twice.py --acts 60

Random acts on one data_root: parameters and code changed and changed back, files altered, deleted
and swapped, parts run, runs killed. After each act a `kedro run` must end in the outputs that a
fresh data_root gets from the same parameters and code, and another one must skip every node.
Each run has a process of its own, forked where torch and kedro are imported, this project is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMINGS = re.compile(rb'"(images_per_second|elapsed_seconds)": [^,}]*')
# The other value of a parameter; the smoke preset's own is the first. No budget is among them: a
# training that has seen more than a lower one asks for stays as it is, and says so.
CHOICES = {
    "optimizer": "sgd",
    "augmentation": "flip",
    "seed": 1,
    "preparation.max_images": 200,
    "training.batch_size": 16,
    "sampling.sampler": "heun",  # `sampler` alone leaves the file of a finished training as it is
    "sampling.weights": "raw",
    "sampling.num_samples": 48,
    "sampling.grid_images": 36,
    "evaluation.seed": 1,
    "evaluation.noise_levels": 6,
}
EDITS = {  # what alters a result, and not that of training, which keeps what other code made
    "evaluation/coverage.py": ("NEIGHBOURS = 5 ", "NEIGHBOURS = 5 - 1 "),
    "evaluation/denoising_loss.py": ("\nimport ", "\n# a comment alters nothing\nimport "),
    "pipelines/sampling/nodes.py": (
        "make_grid(samples[: ",
        "make_grid(samples[::-1][: ",
    ),
}
OUTPUTS = {
    "prepare_images": [f"05_model_input/{split}_images.safetensors" for split in ("train", "test")],
    "train_model": [
        *("06_models/model.safetensors", "08_reporting/training_log.jsonl"),
        *("08_reporting/training_card.json", "08_reporting/sample_previews"),
    ],
    "tabulate_log": ["08_reporting/training_log.csv"],
    "sample_images": ["07_model_output/samples.npy", "07_model_output/samples_card.json"],
    "draw_grid": ["08_reporting/sample_grid.png"],
    "evaluate_samples": ["08_reporting/metrics.json", "08_reporting/diagnostics.json"],
    "write_report": ["08_reporting/report.html"],  # says when, so it is not compared
}
PRELOADED = ["torch", "kedro.framework.cli.cli", "kedro.framework.session", "sklearn.datasets"]


def run_kedro(project: Path, arguments: list[str], log: Path) -> None:
    """`kedro run` in this process, which was made for it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(project)
    sys.path.insert(0, str(project / "src"))
    sys.argv = ["kedro", "run", "--env", "smoke", *arguments]
    from kedro.framework.cli.cli import main as kedro

    kedro()


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of the folder, sorted."""
    return sorted(file for file in (path, *path.rglob("*")) if file.is_file())


class World:
    """A copy of the project, one data_root, and what a user chose last."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.project, self.data = folder, folder / "project", folder / "data"
        for name in ("src", "conf"):
            shutil.copytree(ROOT / name, self.project / name)
        shutil.copy(ROOT / "pyproject.toml", self.project)
        self.draw = random.Random(seed)
        self.chosen: dict[str, object] = {}
        self.edited: set[str] = set()
        self.log = folder / "log.txt"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, *arguments: str, data: Path | None = None, **more: str) -> BaseProcess:
        pairs = {"data_root": data or self.data, **self.chosen, **more}
        params = ",".join(f"{key}={value}" for key, value in pairs.items())
        task = (self.project, [*arguments, "--params", params], self.log)
        process = self.context.Process(target=run_kedro, args=task)
        process.start()
        return process

    def run(self, *arguments: str, data: Path | None = None, **more: str) -> list[str]:
        """The nodes that ran; SystemExit where the run failed."""
        process = self.start(*arguments, data=data, **more)
        process.join()
        text = self.log.read_text()
        if process.exitcode != 0:
            raise SystemExit(f"{arguments} {more} {self.chosen} failed:\n{text}")
        return [
            line.split(" runs: ")[0].split()[-1] for line in text.splitlines() if " runs: " in line
        ]

    def fresh(self) -> Path:
        """The data_root of a first run with these parameters and this code; made once."""
        name = "+".join(sorted([*(f"{k} {v}" for k, v in self.chosen.items()), *self.edited]))
        folder = self.folder / "fresh" / (name.replace("/", " ") or "as given")
        if not folder.exists():
            self.run(data=folder)
        return folder

    def results(self, data: Path) -> dict[str, bytes]:
        """Every output's content, but for timings."""
        found: dict[str, bytes] = {}
        for output in (output for node in list(OUTPUTS)[:-1] for output in OUTPUTS[node]):
            for file in files_of(data / output):
                content = file.read_bytes()
                if file.suffix == ".jsonl":
                    content = TIMINGS.sub(b"", content)
                found[str(file.relative_to(data))] = content
        return found

    def output(self) -> Path:
        """A random output, which is there."""
        there = [self.data / path for paths in OUTPUTS.values() for path in paths]
        return self.draw.choice([path for path in there if path.exists()])

    def record(self) -> Path:
        return self.draw.choice(sorted(self.data.glob("*/*.made.json")))

    # The acts; each returns what it did

    def change(self) -> str:
        key = self.draw.choice(list(CHOICES))
        if self.chosen.pop(key, None) is None:
            self.chosen[key] = CHOICES[key]
        return f"{key} {'changed' if key in self.chosen else 'back'}"

    def back(self) -> str:
        self.chosen.clear()
        return "all parameters back"

    def edit(self) -> str:
        name = self.draw.choice(list(EDITS))
        old, new = EDITS[name] if name not in self.edited else EDITS[name][::-1]
        self.edited ^= {name}
        path = self.project / "src" / "ddpm_kedro" / name
        assert old in path.read_text(), name
        path.write_text(path.read_text().replace(old, new, 1))
        return f"code of {name} {'changed' if name in self.edited else 'back'}"

    def alter(self, files: list[Path] | None = None) -> str:
        """One byte, in place, half of the times with the file's time set back."""
        file = self.draw.choice(files or files_of(self.output()))
        content, stat = bytearray(file.read_bytes()), file.stat()
        content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        with file.open("r+b") as opened:
            opened.write(content)
        back = self.draw.random() < 0.5
        if back:
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return f"{file.relative_to(self.data)} altered{', its time set back' * back}"

    def alter_anything(self) -> str:
        return self.alter([f for f in files_of(self.data) if f.stat().st_size])

    def delete(self) -> str:
        path = self.draw.choice([self.output(), self.record()])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f"{path.relative_to(self.data)} deleted"

    def tear(self) -> str:
        record = self.record()
        text = record.read_text()
        torn = ["", "null", "[]", '{"version": 1}', text[: self.draw.randrange(len(text))]]
        record.write_text(self.draw.choice(torn))
        return f"{record.name} torn"

    def swap(self) -> str:
        """Another run's output or record, or both, at the place of this one's."""
        other = self.draw.choice(sorted((self.folder / "fresh").iterdir()))
        node = self.draw.choice(list(OUTPUTS))
        record = next(other.glob(f"*/{node}.made.json")).relative_to(other)
        names = self.draw.choice([[record], OUTPUTS[node], [record, *OUTPUTS[node]]])
        for name in names:
            if (other / name).is_file():
                shutil.copy(other / name, self.data / name)
        return f"{', '.join(map(str, names))} taken from {other.name}"

    def touch(self) -> str:
        for file in files_of(self.data):
            os.utime(file, (now := time.time() + self.draw.choice([-1e5, 0, 1e5]), now))
        return "all times touched"

    def part(self) -> str:
        what = self.change() if self.draw.random() < 0.7 else "a part"
        node = self.draw.choice(list(OUTPUTS))
        way = self.draw.choice(["--nodes", "--to-nodes", "--from-nodes"])
        try:
            ran = self.run(way, node)
        except SystemExit as refused:  # of what does not fit together
            return f"{what}, {way} {node}: {str(refused).splitlines()[-1]}"
        return f"{what}, {way} {node}: ran {ran}"

    def threads(self) -> str:
        what = self.change()
        self.run("--runner", "ThreadRunner")
        return f"{what}, ThreadRunner"

    def killed(self) -> str:
        what = self.draw.choice([self.change, self.edit])()
        force = self.draw.random() < 0.3
        began, process = time.monotonic(), self.start(**({"force": "true"} if force else {}))
        process.join(self.draw.uniform(0, self.seconds))
        process.kill()
        process.join()
        return f"{what}, {'forced, ' * force}killed after {time.monotonic() - began:.1f} s"

    def commanded(self) -> str:
        command = self.draw.choice(["force", "training.restart"])
        return f"{command}=true: ran {self.run(**{command: 'true'})}"


ACTS = [World.change] * 4 + [World.back, World.edit, World.edit, World.alter, World.alter]
ACTS += [World.alter_anything] * 3 + [World.delete, World.delete, World.tear, World.swap]
ACTS += [World.swap, World.swap, World.touch, World.part, World.part, World.threads]
ACTS += [World.killed, World.killed, World.killed, World.commanded, World.commanded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults: list[str] = []
    done: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name), arguments.seed)
        began = time.monotonic()
        world.fresh()
        world.seconds = time.monotonic() - began
        world.run()
        for number in range(arguments.acts):
            act = world.draw.choice(ACTS)
            done[act.__name__] = done.get(act.__name__, 0) + 1
            said, wrong = act(world), []
            try:
                expected = world.results(world.fresh())
                ran = world.run()
                found = world.results(world.data)
                differing = {k for k in expected | found if expected.get(k) != found.get(k)}
                again = world.run()
                wrong = [f"{name} differs" for name in sorted(differing)]
                wrong += [f"{node} ran again" for node in again]
            except SystemExit as failed:
                wrong, ran = [str(failed)], []
            print(f"{number}: {said}; ran {ran} {wrong or ''}", flush=True)
            if wrong:
                faults.append(f"{number}: {said}: {wrong}")
                world.data.rename(world.folder / f"fault_{number}")
                world.run()
    print(f"{len(faults)} faults in {arguments.acts} acts: {done}", *faults, sep="\n")
    import torch
    from measurement import machine, save_results, versions

    about = {
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
        "seed": arguments.seed,
    }
    save_results("nothing_twice", {**about, "acts": done, "faults": faults})
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
