"""Several processes that train together: launched from here, listened to, and ended with here.

The parent keeps the store's lock, the log and the trackers; it starts one worker a GPU (or a share
of the CPU) with torch's elastic agent, which starts them all again from the last checkpoint when
one dies. Workers get paths and settings, read the memory-mapped images themselves, and send their
records back through a queue. On several machines each runs this same code and keeps its own folder,
which comes out the same everywhere, so no shared file system is needed.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import threading
import uuid
from multiprocessing.managers import SyncManager
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.checkpoints import TrainingFolder
from ddpm_kedro.training.run import Outcome
from ddpm_kedro.training.settings import DistributedSettings, TrainingSettings
from ddpm_kedro.training.stops import StopRequest, die_with_parent
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.worker import Job, Refusal, work

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
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
        InputError: a worker refused to go on.
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
        agent = _Agent(_launch_config(folder, settings.distributed), job)
        agent.start()
        _listen(agent, job, tracker, request)
    return agent.outcome()


class _Agent(threading.Thread):
    """Runs torch's elastic agent. In a thread, for in the main one it would take over the signals.

    The workers are its children: they are told to die with the thread that started them, and this
    one lives as long as they do.
    """

    def __init__(self, config: LaunchConfig, job: Job) -> None:
        super().__init__(name="elastic agent", daemon=True)
        self._config, self._job = config, job
        self._results: dict[int, Outcome | Refusal | None] = {}
        self._failure: BaseException | None = None

    def run(self) -> None:
        # It warns that it cannot take the signals here, which is why it is here.
        agent_logger = logging.getLogger("torch.distributed.elastic.multiprocessing.api")
        agent_logger.addFilter(_says_more_than_signals)
        try:
            self._results = elastic_launch(self._config, work)(self._job)
        except BaseException as error:
            self._failure = error
        finally:
            agent_logger.removeFilter(_says_more_than_signals)

    def outcome(self) -> Outcome:
        """What the workers returned; all of them the same."""
        if isinstance(self._failure, ChildFailedError):
            rank, failure = self._failure.get_first_failure()
            raise RuntimeError(
                f"training: worker {rank} died (exit code {failure.exitcode}), and "
                f"{self._config.max_restarts} new starts are used up: {failure.message}"
            ) from self._failure
        if self._failure is not None:
            raise self._failure
        for result in self._results.values():
            if isinstance(result, Refusal):
                raise InputError(result.message)
        outcomes = [result for result in self._results.values() if isinstance(result, Outcome)]
        if not outcomes:  # a worker refused, and died before it could hand that back
            raise RuntimeError("training: a worker refused to go on; its log says why")
        return outcomes[0]


def _says_more_than_signals(record: logging.LogRecord) -> bool:
    return "Failed to register signal handlers" not in record.getMessage()


def _launch_config(folder: TrainingFolder, distributed: DistributedSettings) -> LaunchConfig:
    is_alone = distributed.nodes == 1
    return LaunchConfig(
        min_nodes=distributed.nodes,
        max_nodes=distributed.nodes,
        nproc_per_node=distributed.workers,
        # Machines with the same choices meet; a job on one machine meets nobody.
        run_id=uuid.uuid4().hex if is_alone else folder.fingerprint,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if is_alone else str(distributed.rendezvous),
        local_addr="127.0.0.1" if is_alone else None,
        max_restarts=distributed.max_restarts,
        monitor_interval=POLL_SECONDS,
        start_method="spawn",
    )


def _listen(agent: _Agent, job: Job, tracker: Tracker, request: StopRequest) -> None:
    """Hand on what the workers say, and the wish to stop, until they have ended."""
    failure: Exception | None = None
    while True:
        is_over = not agent.is_alive()  # asked before the queue: what came last is still read
        if request.signum:
            job.asked.value = request.signum
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
