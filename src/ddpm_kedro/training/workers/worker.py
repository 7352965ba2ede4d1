"""A worker process of a distributed training: joins the others, trains, sends its records home."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
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
from ddpm_kedro.training.workers.rendezvous import Rendezvous, interface_of
from ddpm_kedro.training.workers.team import Team

POLL_SECONDS = 0.1


@dataclass
class Job:
    """What a worker is told; everything in it can be pickled.

    Attributes:
        images_path: an image set to map.
        folder_path: the training's folder, opened without its lock.
        keep_checkpoints: see :class:`TrainingFolder`.
        settings, spec: of the training.
        log_level: of the parent's loggers.
        line: queue of (method of the tracker, arguments), read by the parent.
        asked: number of the signal that the parent got, or 0.
        refused: set when a worker met an InputError: then nothing is to be started again.
    """

    images_path: Path
    folder_path: Path
    keep_checkpoints: int
    settings: TrainingSettings
    spec: ModelSpec
    log_level: int
    line: Any
    asked: Any
    refused: Any


@dataclass(frozen=True)
class Refusal:
    """A worker's InputError, handed back instead of raised: a new start would not help."""

    message: str


class RemoteTracker:
    """A tracker whose records are written, and shown, by the parent process.

    Args:
        line: see :class:`Job`.
    """

    def __init__(self, line: Any) -> None:
        self._line = line

    def open(self, log_path: str | os.PathLike[str], after_step: int) -> None:
        """As :meth:`Tracker.open`."""
        self._line.put(("open", (Path(log_path), after_step)))

    def record(self, record: Mapping[str, Any]) -> None:
        """As :meth:`Tracker.record`."""
        self._line.put(("record", (dict(record),)))

    def preview(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        """As :meth:`Tracker.preview`."""
        self._line.put(("preview", (Path(path), dict(record))))

    def note(self, key: str, value: Any) -> None:
        """As :meth:`Tracker.note`."""
        self._line.put(("note", (key, value)))

    def sync(self) -> None:
        """As :meth:`Tracker.sync`: returns when all said before is on the parent's disk."""
        self._line.put(("sync", ()))
        self._line.join()

    def close(self) -> None:
        """As :meth:`Tracker.close`."""
        self._line.put(("close", ()))
        self._line.join()


def work(job: Job) -> Outcome | Refusal | None:
    """The life of a worker, from joining the team to the end of its training.

    Returns:
        how far it came; a refusal; None where another worker's refusal ended the job.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which tells us
    if job.refused.is_set():
        return None
    local_rank = int(os.environ["LOCAL_RANK"])
    logging.basicConfig(
        level=job.log_level if local_rank == 0 else logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(message)s",  # as in conf/logging.yml
        datefmt="%m-%d %H:%M:%S",
    )
    team = join_team(job.settings)
    asked = _watch(job)
    try:
        run = TrainingRun(
            ImageSet.open(job.images_path),
            TrainingFolder(job.folder_path, keep_checkpoints=job.keep_checkpoints),
            RemoteTracker(job.line),
            job.settings,
            job.spec,
            team,
        )
        return run(lambda: asked[0])
    except InputError as error:
        job.refused.set()
        return Refusal(str(error))
    finally:
        if sys.exc_info()[0] is None:
            torch.distributed.destroy_process_group()


def join_team(settings: TrainingSettings) -> Team:
    """Meet the other workers of this attempt, as the elastic agent's environment says."""
    environment, distributed = os.environ, settings.distributed
    team = Team(
        rank=int(environment["RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
    )
    device = device_of(settings, team)
    if device.type == "cuda":  # pragma: cuda only
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in environment:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // distributed.workers))
    # By itself gloo takes the interface that the machine's own name leads to, often none of use.
    is_alone = distributed.nodes == 1
    address = "127.0.0.1" if is_alone else Rendezvous(str(distributed.rendezvous), 0).own_address()
    interface = interface_of(address)
    if interface is not None:
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    is_agents = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: torch.distributed.Store = torch.distributed.TCPStore(
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        is_master=not is_agents and team.rank == 0,
    )
    # An agent's store outlives an attempt, and gloo would find the dead one's addresses in it.
    if is_agents:
        attempt = environment["TORCHELASTIC_RESTART_COUNT"]
        store = torch.distributed.PrefixStore(f"attempt{attempt}", store)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=team.rank,
        world_size=team.world_size,
    )
    host_group = torch.distributed.new_group(backend="gloo")
    return Team(team.rank, team.world_size, team.local_rank, host_group)


def _watch(job: Job) -> list[int]:
    """A one-item list that a thread keeps at the number of the signal that the parent got."""
    asked = [0]

    def look() -> None:
        while not asked[0]:
            try:
                asked[0] = job.asked.value
            except (OSError, EOFError):  # the parent is gone, and so shall we be
                return
            time.sleep(POLL_SECONDS)

    threading.Thread(target=look, name="stop watch", daemon=True).start()
    return asked
