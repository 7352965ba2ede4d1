"""Planted faults: each is put into a copy of the code, and the ordinary tests must notice it.

    python benchmarks/mutants.py [words of the faults to try ...]

`mutants.toml` lists exact replacements in src/ddpm_kedro and the test files that are to fail. One
at a time is made in a temporary copy of the repository; a mutant is killed when a test of its files
fails (an error while tests are collected does not count, a run over the time limit does and is
reported as such). Before that the unchanged copy must pass all of these tests. With no words, the
report goes to docs/mutants.md and benchmarks/results/mutants.json; with --changed it does too,
and faults whose entry is as it was at the last report keep their outcome and its date.

Exits with 1 if a mutant survives. It forks one child per mutant, so it needs Linux or macOS.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import datetime
import json
import multiprocessing
import platform
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
RESULTS = ROOT / "benchmarks/results/mutants.json"
PACKAGE = Path("src/ddpm_kedro")
COPIED = ("src", "tests", "conf", "pyproject.toml", "dvc.yaml", "params.yaml")
SECONDS_PER_MUTANT = 120
SECONDS_UNCHANGED = 1200


@dataclass(frozen=True)
class Mutant:
    """One `fault`, in words, and its `origin`: the code this project comes from, a peer, or nobody.

    In `file`, under src/ddpm_kedro, `new` takes the place of `old`, which occurs exactly once. One
    of `tests` must fail, files under tests/ or tests in them (file::test).
    """

    fault: str
    origin: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        return PACKAGE / self.file

    def apply(self, root: Path) -> str:
        """Change the file under `root`; returns its text before."""
        text = (root / self.path).read_text()
        (root / self.path).write_text(text.replace(self.old, self.new))
        return text


@dataclass(frozen=True)
class Verdict:
    """How the tests ended: `outcome` is "passed", "failed", "not collected", "timed out" or
    "crashed", `test` the first one that failed, `date` the day in UTC."""

    outcome: str
    test: str
    seconds: float
    date: str

    @property
    def killed(self) -> bool:
        return self.outcome in ("failed", "timed out")


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class Listener:
    """A pytest plugin that tells its parent the first test that fails."""

    def __init__(self) -> None:
        self.failed = ""
        self.torn = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.torn:
            self.torn = f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}"


def _run_in_child(root: Path, tests: list[str], parent: Connection, log: Path) -> None:
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(root)
    sys.dont_write_bytecode = True  # a .pyc of the last mutant could pass for the next one's
    torch.set_num_threads(1)
    listener = Listener()
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[listener])
    import ddpm_kedro

    if not Path(ddpm_kedro.__file__).is_relative_to(root):
        parent.send(("not collected", f"the tests imported {ddpm_kedro.__file__}"))
    elif listener.torn:
        parent.send(("not collected", listener.torn))
    elif listener.failed:
        parent.send(("failed", listener.failed))
    else:
        parent.send(("passed" if code == 0 else "not collected", ""))


def run_tests(root: Path, tests: Iterable[str], limit_seconds: float, log: Path) -> Verdict:
    """Run test files of the copy in ``root`` until one test fails."""
    context = multiprocessing.get_context("fork")  # torch is imported once, not for every mutant
    here, there = context.Pipe(duplex=False)
    started_at = time.monotonic()
    child = context.Process(
        target=_run_in_child, args=(root, [f"tests/{name}" for name in tests], there, log)
    )
    child.start()
    there.close()
    try:
        outcome = here.recv() if here.poll(limit_seconds) else ("timed out", "")
    except EOFError:
        outcome = ("crashed", "")
    if child.is_alive() and outcome[0] == "timed out":
        os.killpg(child.pid, 9)
    child.join()
    return Verdict(*outcome, round(time.monotonic() - started_at, 2), today())


def read_table() -> list[Mutant]:
    """All mutants, checked against the working tree."""
    rows = tomllib.loads(TABLE.read_text())["mutant"]
    mutants = [
        Mutant(**{"origin": "", **row, "tests": tuple(row["tests"].split())}) for row in rows
    ]
    for mutant in mutants:
        count = (ROOT / mutant.path).read_text().count(mutant.old)
        if count != 1 or mutant.old == mutant.new:
            sys.exit(f"{mutant.file}: {mutant.old!r} occurs {count} times, not once")
        for test in mutant.tests:
            if not (ROOT / "tests" / test.partition("::")[0]).is_file():
                sys.exit(f"{mutant.fault}: there is no tests/{test}")
    twice = [fault for fault, count in Counter(m.fault for m in mutants).items() if count > 1]
    if twice:
        sys.exit(f"listed twice: {twice[0]}")
    return mutants


def earlier_verdicts() -> dict[Mutant, Verdict]:
    """Those of the last report that were killed by a test that is still there."""
    last = json.loads(RESULTS.read_text())
    verdicts = {}
    for row in last["results"]:
        row = {"date": last["date"], **row, "tests": tuple(row["tests"])}
        mutant, verdict = (
            kind(**{field.name: row[field.name] for field in fields(kind)})
            for kind in (Mutant, Verdict)
        )
        file, *names = verdict.test.partition("[")[0].split("::")
        path = ROOT / file
        is_there = path.is_file() and f"def {names[-1]}(" in path.read_text()
        if verdict.killed and (is_there or not verdict.test):
            verdicts[mutant] = verdict
    return verdicts


def copy_repository(target: Path) -> None:
    """What the tests need, without leftovers."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, target / name)


def report(results: list[tuple[Mutant, Verdict]], seconds: float) -> None:
    """Write docs/mutants.md and benchmarks/results/mutants.json."""
    facts = {
        "date": today(),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, np, pytest)},
        "platform": platform.platform(),
        "seconds": round(seconds),
        "mutants": len(results),
        "killed": sum(verdict.killed for _, verdict in results),
        "killed_by_time_limit": sum(verdict.outcome == "timed out" for _, verdict in results),
    }
    rows = [{**asdict(mutant), **asdict(verdict)} for mutant, verdict in results]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")

    days = Counter(verdict.date for _, verdict in results)
    planted = ", ".join(f"{count} on {day}" for day, count in sorted(days.items(), reverse=True))
    lines = [
        "# Planted faults",
        "",
        f"{facts['killed']} of {facts['mutants']} killed, {facts['killed_by_time_limit']} of them "
        f"by the time limit ({facts['date']}, Python {facts['python']}, torch {facts['torch']}). "
        f"Planted: {planted}"
        + ("; the code around a replacement may have changed since." if len(days) > 1 else "."),
        "",
        "Each fault below is planted by itself in a copy of the code (`benchmarks/mutants.toml` "
        "has the exact replacements), and the ordinary tests of its module must fail. "
        "`python benchmarks/mutants.py` does it again and writes this page. The first test that "
        "failed is named; others may fail too.",
    ]
    for heading, is_here in (
        ("The code this project comes from", lambda origin: origin == "first code"),
        ("Peers", lambda origin: origin not in ("", "first code")),
        ("Our own", lambda origin: not origin),
    ):
        lines += ["", f"## {heading}", "", "| fault | where | killed by |", "|---|---|---|"]
        for mutant, verdict in results:
            if is_here(mutant.origin):
                owner = f" ({mutant.origin})" if heading == "Peers" else ""
                killer = f"`{verdict.test}`" if verdict.test else "time limit"
                lines.append(
                    f"| {mutant.fault}{owner} | `{mutant.file}` | "
                    f"{killer if verdict.killed else '**survived**'} |".replace("tests/", "")
                )
    (ROOT / "docs/mutants.md").write_text("\n".join(lines) + "\n")


def plant(mutants: list[Mutant], trust: bool) -> dict[Mutant, Verdict]:
    """Try one after the other in a copy, after the unchanged code unless that is trusted."""
    verdicts = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root, log = Path(folder).resolve() / "copy", Path(folder) / "log.txt"
        copy_repository(root)
        if not trust:
            tests = sorted({test for mutant in mutants for test in mutant.tests})
            verdict = run_tests(root, tests, SECONDS_UNCHANGED, log)
            print(f"unchanged: {verdict.outcome} {verdict.test} ({verdict.seconds:.0f} s)")
            if verdict.outcome != "passed":
                sys.exit(log.read_text()[-4000:])
        for number, mutant in enumerate(mutants, 1):
            text = mutant.apply(root)
            verdict = run_tests(root, mutant.tests, SECONDS_PER_MUTANT, log)
            (root / mutant.path).write_text(text)
            verdicts[mutant] = verdict
            word = "killed" if verdict.killed else f"SURVIVED ({verdict.outcome})"
            killer = f"[{verdict.test}, {verdict.seconds:.1f} s]"
            print(f"{number}/{len(mutants)} {word}: {mutant.fault} {killer}", flush=True)
    return verdicts


def main() -> None:
    """Plant every fault (or those that are asked for), one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="try only faults that contain one of these")
    parser.add_argument("--trust", action="store_true", help="skip the run of the unchanged code")
    changed = "try those too that are new or changed since the report, and write it anew"
    parser.add_argument("--changed", action="store_true", help=changed)
    arguments = parser.parse_args()
    mutants = read_table()
    reports = arguments.changed or not arguments.words
    earlier = earlier_verdicts() if arguments.changed else {}
    chosen = [
        mutant
        for mutant in mutants
        if any(word in mutant.fault for word in arguments.words)
        or (reports and mutant not in earlier)
    ]
    started_at = time.monotonic()
    verdicts = plant(chosen, arguments.trust and not reports)
    if reports:
        results = [(mutant, (earlier | verdicts)[mutant]) for mutant in mutants]
        report(results, time.monotonic() - started_at)
    survivors = [mutant for mutant, verdict in verdicts.items() if not verdict.killed]
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} killed")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
