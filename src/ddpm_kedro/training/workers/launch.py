"""Several processes that train together: launched from here, listened to, and ended with here.

The parent keeps the store's lock, the log and the trackers; it starts one worker a GPU (or a share
of the CPU) with torch's elastic agent, which starts them all again from the last checkpoint when
one dies. Workers get paths and settings, read the memory-mapped images themselves, and send their
records back through a queue. On several machines each runs this same code and keeps its own folder,
which comes out the same everywhere, so no shared file system is needed (docs/scaling.md).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import uuid
from multiprocessing.managers import SyncManager
from pathlib import Path

from torch.distributed.elastic.multiprocessing import api as elastic
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.loop import Outcome
from ddpm_kedro.training.settings import DistributedSettings, TrainingSettings
from ddpm_kedro.training.stops import Stopped, StopRequest, die_with_parent
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.rendezvous import Rendezvous
from ddpm_kedro.training.workers.worker import Job, Refusal, work

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
ALONE_SECONDS = 2.0  # without workers for so long: the agent waits for the other machines
IMAGES_NAME = "images.safetensors"


def launch(
    images: ImageSet,
    folder: TrainingFolder,
    tracker: Tracker,
    settings: TrainingSettings,
    spec: ModelSpec,
    request: StopRequest,
) -> Outcome:
    """Train with ``settings.distributed`` and return when all workers have ended.

    Args:
        images: memory-mapped, or else written into ``folder`` for the workers to map.
        folder: of this training; this process holds its lock.
        tracker: gets the records of this machine's first worker.
        settings, spec: as in one process.
        request: a signal noted there is passed on; the workers agree on the step to stop after.

    Raises:
        InputError: a worker refused to go on, or the other machines did not come in time.
        Stopped: the signal came while this machine waited for others; nothing was under way.
        RuntimeError: workers died more often than ``max_restarts`` allows.
    """
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(die_with_parent)
    with manager:
        job = Job(
            images_path=_path_of(images, folder),
            folder_path=folder.path,
            keep_checkpoints=folder.keep_checkpoints,
            settings=settings,
            spec=spec,
            log_level=logging.getLogger("ddpm_kedro").getEffectiveLevel(),
            line=manager.JoinableQueue(),
            asked=manager.Value("i", 0),
            refused=manager.Event(),
        )
        agent = _Agent(folder, settings.distributed, job)
        agents_logger = logging.getLogger(elastic.__name__)
        agents_logger.addFilter(_says_more_than_signals)
        try:
            agent.start()
            _listen(agent, job, tracker, request)
        finally:
            agents_logger.removeFilter(_says_more_than_signals)
    return agent.outcome()


class _Agent(threading.Thread):
    """Runs torch's elastic agent. In a thread, for in the main one it would take over the signals.

    The workers are its children: they are told to die with the thread that started them, and this
    one lives as long as they do.
    """

    def __init__(self, folder: TrainingFolder, distributed: DistributedSettings, job: Job) -> None:
        super().__init__(name="elastic agent", daemon=True)
        self._folder, self._distributed, self._job = folder, distributed, job
        self._results: dict[int, Outcome | Refusal | None] = {}
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            if self._distributed.nodes == 1:
                config = _launch_config(self._distributed, uuid.uuid4().hex)
                self._results = elastic_launch(config, work)(self._job)
            else:
                self._run_with_others()
        except BaseException as error:
            self._failure = error

    def _run_with_others(self) -> None:
        distributed = self._distributed
        endpoint, wait_seconds = str(distributed.rendezvous), 60 * distributed.wait_minutes
        logger.info(
            "training: waiting up to %g minutes for %d machines at %s",
            distributed.wait_minutes,
            distributed.nodes,
            endpoint,
        )
        rendezvous = Rendezvous(endpoint, wait_seconds)  # the meeting place is open while it lives
        address = rendezvous.meet()
        # Machines with the same images and choices meet.
        config = _launch_config(distributed, self._folder.fingerprint, address)
        self._results = elastic_launch(config, work)(self._job)

    def outcome(self) -> Outcome:
        """What the workers returned; all of them the same."""
        if isinstance(self._failure, ChildFailedError):
            rank, failure = self._failure.get_first_failure()
            raise RuntimeError(
                f"training: worker {rank} died (exit code {failure.exitcode}), and "
                f"{self._distributed.max_restarts} new starts are used up: {failure.message}"
            ) from self._failure
        if isinstance(self._failure, RendezvousError):
            raise InputError(self._who_is_missing(self._failure)) from self._failure
        if self._failure is not None:
            raise self._failure
        for result in self._results.values():
            if isinstance(result, Refusal):
                raise InputError(result.message)
        outcomes = [result for result in self._results.values() if isinstance(result, Outcome)]
        if not outcomes:  # a worker refused, and died before it could hand that back
            raise RuntimeError("training: a worker refused to go on; its log says why")
        return outcomes[0]

    def _who_is_missing(self, failure: RendezvousError) -> str:
        distributed = self._distributed
        where = f"training.distributed.rendezvous={distributed.rendezvous}"
        if isinstance(failure, RendezvousConnectionError):
            return (
                f"{where}: the machine where all meet is gone; start the run on all machines "
                "again, it goes on from the last checkpoint"
            )
        return (
            f"{where}: fewer than {distributed.nodes} machines with the same images and choices "
            f"came within {distributed.wait_minutes:g} minutes; start the same run on each of "
            "them, or set training.distributed.nodes to how many there are"
        )


def _says_more_than_signals(record: logging.LogRecord) -> bool:
    """False for the agent's warning that it takes no signals: this process does, as meant."""
    return "Failed to register signal handlers" not in record.getMessage()


def _launch_config(
    distributed: DistributedSettings, run_id: str, address: str | None = None
) -> LaunchConfig:
    """What the elastic agent is told.

    Args:
        distributed: how many of everything.
        run_id: agents with the same one meet.
        address: by which other machines reach this one; None when there are none.
    """
    # With others, each start gets a store of its own, on its first worker: agents that joined at
    # different times do not agree on the number of the attempt, nor on an older store's address.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "0" if address is None else "1"
    wait_seconds = int(60 * distributed.wait_minutes) or 1
    return LaunchConfig(
        min_nodes=distributed.nodes,
        max_nodes=distributed.nodes,
        nproc_per_node=distributed.workers,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if address is None else str(distributed.rendezvous),
        rdzv_configs={}
        if address is None
        else {"is_host": "false", "join_timeout": wait_seconds, "read_timeout": wait_seconds},
        local_addr=address or "127.0.0.1",
        max_restarts=distributed.max_restarts,
        monitor_interval=POLL_SECONDS,
        start_method="spawn",
    )


def _listen(agent: _Agent, job: Job, tracker: Tracker, request: StopRequest) -> None:
    """Hand on what the workers say, and the wish to stop, until they have ended."""
    failure: Exception | None = None
    had_workers_at = time.monotonic()
    while True:
        is_over = not agent.is_alive()  # asked before the queue: what came last is still read
        if request.signum:
            job.asked.value = request.signum
            if len(multiprocessing.active_children()) > 1:  # one is the manager
                had_workers_at = time.monotonic()
            elif not is_over and time.monotonic() - had_workers_at > ALONE_SECONDS:
                message = "training stopped while it waited for the other machines"
                raise failure or Stopped(request.signum, message)
        else:
            had_workers_at = time.monotonic()
        try:
            method, arguments = job.line.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if is_over:
                break
            continue
        try:
            if failure is None:
                getattr(tracker, method)(*arguments)
        except Exception as error:  # a full disk, say: the workers save, if they can, and end
            failure = error
            job.refused.set()
            request.signum = request.signum or signal.SIGTERM
        finally:
            job.line.task_done()
    if failure is not None:
        raise failure


def _path_of(images: ImageSet, folder: TrainingFolder) -> Path:
    """A file from which a worker can map the images."""
    filename = getattr(images.images, "filename", None)
    if filename is not None and ImageSet.open(filename).content_hash == images.content_hash:
        return Path(filename)
    path = folder.path / IMAGES_NAME
    images.save(path)
    return path
