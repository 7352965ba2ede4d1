"""One trial: an ordinary `kedro run` in a folder of its own, and the process that does it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from ddpm_kedro.errors import InputError, one_line
from ddpm_kedro.files import atomic_write
from ddpm_kedro.framework.composition import overlay
from ddpm_kedro.locks import FileLock
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.plain import canonical_json, objects_of

KEDRO_RUN = (sys.executable, "-m", "kedro", "run", "--config")  # and the trial's file
_PR_SET_PDEATHSIG = 1
_LOG_PREFIX = re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+ +")


@dataclass(frozen=True)
class Trial:
    """What one trial does; made by a `Plan`, which has checked it."""

    name: str
    folder: Path
    """Its data_root."""
    env: str | None
    params: Mapping[str, Any]
    """All that `kedro run` is told, nested."""
    varied: Mapping[str, Any]
    """What of it differs between the trials, by dotted keys."""
    parameters: Parameters
    rung: int = 0
    """Of successive halving."""
    images_before: int = 0
    """Images that an earlier rung trained on, from where this one goes on."""

    def with_budget(self, kimg: float, rung: int = 0, images_before: int = 0) -> Trial:
        """The same trial with another `training.budget_kimg`."""
        training = replace(self.parameters.training, budget_kimg=kimg)
        return replace(
            self,
            params=overlay(self.params, {"training": {"budget_kimg": kimg}}, []),
            parameters=replace(self.parameters, training=training),
            rung=rung,
            images_before=images_before,
        )

    @property
    def budget_kimg(self) -> float:
        """Thousands of images that it trains for."""
        return self.parameters.training.budget_kimg

    @property
    def images_ahead(self) -> int:
        """Images to train on."""
        return self.parameters.training.budget_images - self.images_before

    @cached_property
    def sameness(self) -> str:
        """Equal text for parameters that a run does not tell apart, whatever table or layer they
        came from."""
        sections = ("preparation", "training", "sampling", "evaluation")
        return canonical_json({name: asdict(getattr(self.parameters, name)) for name in sections})

    def result(self, name: str = "08_reporting/metrics.json") -> dict[str, Any]:
        """What a JSON file of its folder says, nothing where it is not there (yet)."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.folder / name).read_text())
        return {}

    def images_seen(self) -> int:
        """By the training that was last at work."""
        records = objects_of(self._log()[-2:])  # the last may be half written
        return records[-1].get("images_seen", 0) if records else 0

    def quick_scores(self) -> list[tuple[int, float | None]]:
        """Of the training that was last at work, each with its number in the training, from 1, so
        that those of other batch sizes compare; None for one that is not finite."""
        every = 1000 * (self.parameters.training.score_every_kimg or math.inf)
        scored = objects_of(line for line in self._log() if '"quick_score"' in line)
        return [(int(each["images_seen"] // every), each["quick_score"]) for each in scored]

    def _log(self) -> list[str]:
        logs = self.folder.glob("06_models/trainings/*/*.jsonl")
        newest = max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)
        return _lines(newest) if newest else []


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    trial: Trial
    state: Literal["finished", "failed", "stopped"]
    """`stopped` is by us, before its end."""
    reason: str = ""
    """Why it failed: the last line that it said."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Of a finished one."""
    seconds: float = 0.0


class TrialProcess:
    """The process of a trial, in a session of its own so that a terminal's Ctrl-C does not reach
    it: `stop` does. On Linux it gets SIGTERM when the thread that started it ends, however it ends;
    training then saves and ends. A trial that is still ending so is waited for, by a lock that the
    process holds itself.

    `environ` is added to this process's environment; `command` is told the file with the trial's
    parameters. InputError where the folder cannot be written or another sweep is at this trial.
    """

    def __init__(
        self, trial: Trial, project: Path, environ: Mapping[str, str], command: Sequence[str]
    ) -> None:
        self.trial, self.log_path = trial, trial.folder / "log.txt"
        self._is_stopped = False
        run_file = trial.folder / "run.yml"
        told = {"params": dict(trial.params), **({"env": trial.env} if trial.env else {})}
        try:
            trial.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(trial.folder / ".trial.lock", work="at this trial")
            with atomic_write(run_file, "w") as file:
                file.write(OmegaConf.to_yaml(OmegaConf.create({"run": told})))
            held = os.fdopen(os.dup(self._lock.fileno()))  # the child closes the original
            with held, open(self.log_path, "ab") as log:
                self._process = subprocess.Popen(
                    [*command, str(run_file)],
                    cwd=project,
                    env={**os.environ, **environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[held.fileno()],
                    preexec_fn=_ending_with(os.getpid()),
                )
        except OSError as error:
            raise InputError(f"{error.filename or trial.folder}: {error.strerror}") from error
        self.started_at = time.monotonic()

    def poll(self) -> Outcome | None:
        """How the trial ended, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self._lock.release()
        ended = partial(Outcome, self.trial, seconds=self.seconds)
        if code == 0 and (metrics := self.trial.result()):
            return ended("finished", metrics=metrics)
        return ended("stopped") if self._is_stopped else ended("failed", self._reason(code))

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.monotonic() - self.started_at

    def stop(self) -> None:
        """Ask it to save and end; a second call does nothing."""
        if not self._is_stopped and self._process.poll() is None:
            self._is_stopped = True
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()
        self._lock.release()

    def _reason(self, code: int) -> str:
        lines = [_LOG_PREFIX.sub("", line.strip()) for line in _lines(self.log_path)]
        last = next(filter(None, reversed(lines)), "it said nothing")
        if code == 0:
            return f"no metrics.json was written; {one_line(last)}"
        killed = f"ended by {signal.Signals(-code).name}; " if code < 0 else ""
        return killed + one_line(last.removeprefix("Error: "))


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", "replace").splitlines()
    return []


def _ending_with(parent: int) -> Any:
    """What the child does before it becomes `kedro run`: ask for SIGTERM at our death."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # not looked up after the fork

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask
