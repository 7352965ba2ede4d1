"""Every test marked ``cuda`` on the GPU that computes nothing: what becomes of it, and why.

    python tests/null_gpu/outcomes.py > docs/cuda_tests.md

Values are not computed there, so tests of values fail, and one that looks at garbage may hang or
crash: each crash is noted, and the tests behind it run in a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 300  # of one process: the text of a garbage tensor may take for ever

PREFACE = """# The `cuda` tests on a GPU that computes nothing

Made by `python tests/null_gpu/outcomes.py > docs/cuda_tests.md`. What runs on the stand-in
(`tests/null_gpu`) is PyTorch's own code down to the driver; kernels are recorded and not run. So a
test of `tests/training` and `tests/diffusion` that is marked `cuda` passes where it asks for no
value, or for one that garbage happens to have, and otherwise fails at comparing one: **any other
reason would be a fault of ours**. `erfinv` (log-normal times) is a kernel that NVRTC makes, which
the stand-in does not have: it ends the process (-11). Wording how garbage differs may take all
memory or all time: then a test that compares values is ended from outside (-9), another each time.
"""


class Recorder:
    """A plugin of pytest that notes each test when it begins and when it ends."""

    def __init__(self, path: str) -> None:
        self.path = path

    def note(self, *words: str) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(words) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.note("begins", nodeid, "")

    def pytest_runtest_logreport(self, report: object) -> None:
        if report.when == "call" or not report.passed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.note(report.outcome, report.nodeid, getattr(crash, "message", ""))


def reason(outcome: str, message: str) -> str:
    """In words; a message that compares no values is shown as it is."""
    if outcome != "failed":
        return {"passed": "passes"}.get(outcome, outcome)
    first = " ".join(message.split())
    # torch.testing says RuntimeError where it fails at wording how much garbage differs
    compares = first.startswith(("AssertionError", "assert ", "RuntimeError: Comparing TensorLike"))
    return "compares values" if compares else first[:200]


def outcomes() -> dict[str, tuple[str, str]]:
    """Of each test (outcome, message)."""
    command = [sys.executable, str(HERE / "fake_cuda.py"), str(Path(__file__).resolve())]
    found: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, known = Path(folder) / "outcomes", -1
        while len(found) > known:
            known, begun = len(found), None
            path.write_text("")
            environment = {**os.environ, "OUTCOMES": str(path), "DONE": json.dumps(list(found))}
            try:
                code = subprocess.run(
                    command, cwd=HERE.parents[1], env=environment, timeout=SECONDS,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                ).returncode  # fmt: skip
                ended = f"ends the process ({code})"
            except subprocess.TimeoutExpired:
                ended = f"not done after {SECONDS} s: words garbage"
            for line in path.read_text().splitlines():
                outcome, test, message = json.loads(line)
                begun = test if outcome == "begins" else None
                if begun is None:
                    found[test] = outcome, message
            if begun is not None:
                found[begun] = ended, ""
    return found


def run_tests() -> None:
    """All that are not done, in this process, which has the GPU."""
    import pytest

    done = json.loads(os.environ["DONE"])
    pytest.main(
        ["-m", "cuda", "-q", "-p", "no:cacheprovider", "--tb=line", "tests/training",
         "tests/diffusion", *(f"--deselect={test}" for test in done)],
        plugins=[Recorder(os.environ["OUTCOMES"])],
    )  # fmt: skip


def main() -> None:
    """Print the page."""
    found = outcomes()
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for test, (outcome, message) in found.items():
        name, _, case = test.removeprefix("tests/").partition("[")
        groups[name, reason(outcome, message)].append(case.rstrip("]").removeprefix("cuda-"))
    passed = sum(outcome == "passed" for outcome, _ in found.values())
    print(PREFACE)
    print(
        f"{len(found)} tests, of which {passed} pass.\n\n| test | cases | outcome |\n|---|---|---|"
    )
    for (name, why), cases in sorted(groups.items()):
        shown = ", ".join(case for case in cases if case not in ("", "cuda")) or "1"
        print(f"| `{name}` | {shown} | {why} |")


if __name__ == "__main__":
    run_tests() if "OUTCOMES" in os.environ else main()
