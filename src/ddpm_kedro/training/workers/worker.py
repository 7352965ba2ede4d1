"""A worker process of a distributed training: joins the others, trains, sends its records home."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.loop import Outcome, TrainingRun, device_of
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.stops import die_with_parent
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.workers.rendezvous import interface_of, way_to
from ddpm_kedro.training.workers.team import Team

POLL_SECONDS = 0.1


@dataclass
class Job:
    """What a worker is told; everything in it can be pickled."""

    images_path: Path
    folder_path: Path
    settings: TrainingSettings
    spec: ModelSpec
    log_level: int  # of the parent's loggers
    line: Any  # a queue of (method of the tracker, arguments), read by the parent
    asked: Any  # number of the signal that the parent got, or 0
    refusals: Any  # a list of InputErrors, said once: with one in it nothing is started again


class RemoteTracker:
    """A `Tracker` whose records are written, and shown, by the parent process."""

    def __init__(self, line: Any) -> None:
        self._line = line

    def _say(self, method: str, *arguments: Any, **named: Any) -> None:
        self._line.put((method, arguments, named))

    def _say_and_wait(self, method: str) -> None:
        self._say(method)
        self._line.join()  # all said before is on the parent's disk

    open, record = partialmethod(_say, "open"), partialmethod(_say, "record")
    preview, note = partialmethod(_say, "preview"), partialmethod(_say, "note")
    sync, close = partialmethod(_say_and_wait, "sync"), partialmethod(_say_and_wait, "close")


def work(job: Job) -> Outcome | None:
    """The life of a worker, from joining the team to the end of its training; None where it, or
    another worker before, refused to go on."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which tells us
    if len(job.refusals):
        return None
    logging.basicConfig(
        level=job.log_level if os.environ["LOCAL_RANK"] == "0" else logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(message)s",  # as in conf/logging.yml
        datefmt="%m-%d %H:%M:%S",
    )
    team = join_team(job.settings)
    signum, looked_at = 0, -math.inf

    def asked_to_stop() -> int:
        nonlocal signum, looked_at
        if time.monotonic() - looked_at > POLL_SECONDS:  # asking the parent takes longer than this
            signum, looked_at = int(job.asked.value), time.monotonic()
        return signum

    outcome = None
    try:
        images = ImageSet.open(job.images_path)
        folder = TrainingFolder(job.folder_path, keep_checkpoints=job.settings.keep_checkpoints)
        tracker = RemoteTracker(job.line)
        run = TrainingRun(images, folder, tracker, job.settings, job.spec, team)
        outcome = run(asked_to_stop)
    except InputError as error:
        job.refusals.append(str(error))
    torch.distributed.destroy_process_group()
    return outcome


def join_team(settings: TrainingSettings) -> Team:
    """Meet the other workers of this start, as the elastic agent's environment says."""
    place = [int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    device = device_of(settings, Team(*place))
    if device.type == "cuda":  # pragma: cuda only
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // settings.distributed.workers))
    # By itself gloo takes the interface that the machine's own name leads to, often none of use.
    address = "127.0.0.1"
    if settings.distributed.nodes > 1:
        address, _ = way_to(str(settings.distributed.rendezvous))
    if (interface := interface_of(address)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(*place, torch.distributed.new_group(backend="gloo"))
