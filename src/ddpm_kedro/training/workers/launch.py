"""Several processes that train together: launched from here, listened to, and ended with here.

The parent keeps the store's lock, the log and the trackers; torch's elastic agent starts one worker
a GPU (or a share of the CPU), and all again from the last checkpoint when one dies. Workers read
the memory-mapped images themselves and send their records back through a queue. On several machines
each runs this same code and keeps its own folder, which comes out the same (docs/scaling.md).
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
from concurrent.futures import Future
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import api as elastic
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.loop import Outcome
from ddpm_kedro.training.settings import DistributedSettings, TrainingSettings
from ddpm_kedro.training.stops import StopRequest, die_with_parent
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.rendezvous import meet
from ddpm_kedro.training.workers.worker import POLL_SECONDS, Job, work

LOGGER = logging.getLogger(__name__)

ALONE_SECONDS = 2.0  # without workers for so long: the agent waits for the other machines

Results = Future[dict[int, Outcome | None]]  # by rank


def launch(
    images: ImageSet,
    folder: TrainingFolder,
    tracker: Tracker,
    settings: TrainingSettings,
    spec: ModelSpec,
    request: StopRequest,
) -> Outcome:
    """Train with `settings.distributed` and return when all workers have ended.

    `images` that are not memory-mapped are written into `folder` for the workers to map. A signal
    noted in `request` is passed on; the workers agree on the step to stop after. InputError where a
    worker refused to go on, or the other machines did not come in time; Stopped where the signal
    came while this machine waited for others, with nothing under way; RuntimeError where workers
    died more often than `max_restarts` allows.
    """
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(die_with_parent)
    with manager:
        job = Job(
            images_path=_path_of(images, folder),
            folder_path=folder.path,
            settings=settings,
            spec=spec,
            log_level=logging.getLogger("ddpm_kedro").getEffectiveLevel(),
            line=manager.JoinableQueue(),
            asked=manager.Value("i", 0),
            refusals=manager.list(),
        )
        results: Results = Future()
        # In a thread, for in the main one torch's agent would take over the signals. The workers
        # are told to die with the thread that started them, and it lives as long as they do.
        threading.Thread(target=_run_agent, args=(results, job), daemon=True).start()
        _listen(results, job, tracker, request)
        if len(job.refusals):
            raise InputError(job.refusals[0])
    return _outcome(results, settings.distributed)


def _run_agent(results: Results, job: Job) -> None:
    """Start the workers, and again when one dies; `results` get what each of them returned."""
    distributed = job.settings.distributed
    elastic_logger = logging.getLogger(elastic.__name__)
    elastic_logger.addFilter(_is_news)
    try:
        several: dict[str, Any] = {}
        run_id, endpoint, address = uuid.uuid4().hex, "127.0.0.1:0", "127.0.0.1"
        if distributed.nodes > 1:
            endpoint, minutes = str(distributed.rendezvous), distributed.wait_minutes
            waiting = "training: waiting up to %g minutes for %d machines at %s"
            LOGGER.info(waiting, minutes, distributed.nodes, endpoint)
            address, _open = meet(endpoint, 60 * minutes)  # open as long as it lives
            run_id = job.folder_path.name  # machines with the same images and choices meet
            timeout = int(60 * minutes) or 1
            several = {"is_host": "false", "join_timeout": timeout, "read_timeout": timeout}
        # Each start gets a store of its own, on its first worker: an older one still has the
        # addresses of the dead, and agents that joined at different times do not agree on it.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        config = LaunchConfig(
            min_nodes=distributed.nodes,
            max_nodes=distributed.nodes,
            nproc_per_node=distributed.workers,
            run_id=run_id,
            rdzv_backend="c10d",
            rdzv_endpoint=endpoint,
            rdzv_configs=several,
            local_addr=address,
            max_restarts=distributed.max_restarts,
            monitor_interval=POLL_SECONDS,
            start_method="spawn",
        )
        results.set_result(elastic_launch(config, work)(job))
    except BaseException as error:
        results.set_exception(error)
    finally:
        elastic_logger.removeFilter(_is_news)


def _outcome(results: Results, distributed: DistributedSettings) -> Outcome:
    """What the workers returned; all of them the same."""
    where = f"training.distributed.rendezvous={distributed.rendezvous}"
    try:
        returned = results.result().values()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RuntimeError(
            f"training: worker {rank} died (exit code {failure.exitcode}), and "
            f"{distributed.max_restarts} new starts are used up: {failure.message}"
        ) from error
    except RendezvousConnectionError as error:
        raise InputError(
            f"{where}: the machine where all meet is gone; start the run on all machines "
            "again, it goes on from the last checkpoint"
        ) from error
    except RendezvousError as error:
        raise InputError(
            f"{where}: fewer than {distributed.nodes} machines with the same images and choices "
            f"came within {distributed.wait_minutes:g} minutes; start the same run on each of "
            "them, or set training.distributed.nodes to how many there are"
        ) from error
    return next(outcome for outcome in returned if outcome is not None)


def _is_news(record: logging.LogRecord) -> bool:
    """Not the agent's warning that it takes no signals: this process does, as meant."""
    return "Failed to register signal handlers" not in record.getMessage()


def _listen(results: Results, job: Job, tracker: Tracker, request: StopRequest) -> None:
    """Hand on what the workers say, and the wish to stop, until they have ended."""
    failure: Exception | None = None
    had_workers_at = time.monotonic()
    while True:
        is_over = results.done()  # asked before the queue: what came last is still read
        if request.signum:
            job.asked.value = request.signum
        if not request.signum or len(multiprocessing.active_children()) > 1:  # one is the manager
            had_workers_at = time.monotonic()
        elif not is_over and time.monotonic() - had_workers_at > ALONE_SECONDS:
            message = "training stopped while it waited for the other machines"
            raise failure or Stopped(request.signum, message)
        try:
            method, arguments, named = job.line.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if is_over:
                break
            continue
        try:
            if failure is None:
                getattr(tracker, method)(*arguments, **named)
        except Exception as error:  # a full disk, say: the workers save, if they can, and end
            failure = error
            job.refusals.append(str(error))
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
    path = folder.path / "images.safetensors"
    images.save(path)
    return path
