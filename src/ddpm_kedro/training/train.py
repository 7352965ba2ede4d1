"""Training: from the choices to a model file, or to the news that it is there already."""

from __future__ import annotations

import logging
import platform
from dataclasses import asdict, dataclass

import numpy as np
import torch

import ddpm_kedro
from ddpm_kedro.construction import build
from ddpm_kedro.diffusion.model import Model
from ddpm_kedro.diffusion.model_spec import ModelSpec
from ddpm_kedro.diffusion.precision import choose_device, choose_precision
from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.files import Receipt
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.loop import TrainingRun, initial_weights
from ddpm_kedro.training.quick_score import extractor_of
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.step.state import LearningState
from ddpm_kedro.training.stops import StopRequest
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.store.training_folder import TrainingFolder
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.workers.team import Team

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingReceipts:
    """What training wrote: the model file, the log of JSON lines, the folder of previews."""

    model: Receipt
    training_log: Receipt
    sample_previews: Receipt


def train(
    images: ImageSet, store: CheckpointStore, tracker: Tracker, settings: TrainingSettings
) -> TrainingReceipts:
    """Train a model, go on with one, or find it done.

    A memory-mapped set is never read into memory as a whole. `store` keeps all that is written;
    `tracker` gets every record and preview. InputError where choices do not go together or with the
    images (before any work), the disk is full, or losses stay without a finite value; Stopped where
    Ctrl-C or SIGTERM came, with everything saved.
    """
    # What cannot work is refused before anything is written
    spec = model_spec(images, settings)
    check_choices(spec, settings)

    # New, resumed, gone on with, or done: the store knows by the fingerprint
    with store.open(
        settings.shaping(images.content_hash),
        {**settings.recorded(), **_surroundings(settings)},
        settings.budget_images,
        settled_images=settings.settled_images,
        restart=settings.restart,
        keep_checkpoints=settings.keep_checkpoints,
        keep_trainings=settings.keep_trainings,
    ) as folder:
        tracker.note("fingerprint", folder.fingerprint)
        tracker.note("training", folder.summary)

        if not folder.is_done:
            with StopRequest() as request:
                if settings.distributed.world_size == 1:
                    run = TrainingRun(images, folder, tracker, settings, spec, Team())
                    outcome = run(lambda: request.signum or 0)
                else:
                    from ddpm_kedro.training.workers.launch import launch

                    outcome = launch(images, folder, tracker, settings, spec, request)
            if signum := outcome.signum or request.signum:  # the latter: while it was ending
                raise Stopped(
                    signum,
                    f"training stopped at step {outcome.step:,} ({outcome.images_seen:,} images) "
                    "and saved; the same command goes on from there, training.restart=true starts "
                    "over",
                )
        return _receipts(folder)


def model_spec(images: ImageSet, settings: TrainingSettings) -> ModelSpec:
    """What the model will be; size, channels and classes come from the images. InputError where
    there are none, or a conditional model is asked for of images without classes."""
    if len(images) == 0:
        raise InputError("training: there are no images")
    if settings.conditional and images.labels is None:
        raise InputError("training.conditional=true: these images have no labels; use false")
    channels, height, width = images.image_shape
    return ModelSpec(
        backbone=settings.backbone,
        noise_schedule=settings.noise_schedule,
        objective=settings.objective,
        channels=channels,
        height=height,
        width=width,
        classes=images.classes,
        conditional=settings.conditional,
        loss_weight=settings.loss_weight,
        sampler=settings.sampler,
        provenance={
            "ddpm_kedro": ddpm_kedro.__version__,
            "torch": str(torch.__version__),
            "images": images.content_hash,
            "num_images": len(images),
            "seed": settings.seed,
            # How it learned, for the report and for whoever gets the file later
            "training": {
                "optimizer": settings.optimizer,
                "lr_schedule": settings.lr_schedule,
                "batch_size": settings.batch_size,
                "augmentation": settings.augmentation,
                "timesteps": settings.timesteps,
                "clip_norm": settings.clip_norm,
                "ema": asdict(settings.ema),
                "label_dropout": settings.label_dropout if settings.conditional else None,
            },
        },
    )


def check_choices(spec: ModelSpec, settings: TrainingSettings) -> None:
    """Build everything once without memory or data, so that wrong choices cost no work; an
    InputError is what the first of them said."""
    device, workers = choose_device(settings.device), settings.distributed.workers
    choose_precision(settings.precision, device)
    if device.type == "cuda":
        gpus = torch.cuda.device_count() if device.index is None else 1
        if workers > gpus:  # NCCL lets no two processes share one
            raise InputError(
                f"training.distributed.workers={workers}: device={device} has {gpus} GPU(s) here, "
                "and each worker takes one"
            )
    with torch.device("meta"):
        network = spec.build("backbone")
    model = Model(spec, network)
    LearningState(model, settings)
    build(settings.augmentation)
    build(settings.timesteps).check(model.denoiser.schedule)
    spec.build("sampler").check(model.denoiser.schedule)
    if settings.score_every_kimg is not None:
        extractor_of(settings, spec.image_shape)
    if settings.init_from is not None:
        initial_weights(settings.init_from, network)


def _surroundings(settings: TrainingSettings) -> dict[str, str]:
    """What is recorded beside the settings: where and with which code this runs."""
    device = choose_device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device_used": name,
        "precision_used": choose_precision(settings.precision, device).name,
        "ddpm_kedro": ddpm_kedro.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _receipts(folder: TrainingFolder) -> TrainingReceipts:
    record = folder.record()
    seen = record.model_images_seen or 0
    if not (is_whole := folder.has_shown(record)):
        LOGGER.warning(
            "%s: the log or a preview was altered since the training ended, and nothing else has "
            "them; training.restart=true makes them again",
            folder.path,
        )
    facts = {
        "fingerprint": folder.fingerprint,
        "status": folder.status,
        "images_seen": seen,
        # Not where max_minutes ended it, nor with a log that nobody can vouch for
        "finished": seen >= (record.asked_images or 0) and is_whole,
    }
    return TrainingReceipts(
        model=Receipt(folder.model_path, {**facts, "sha256": record.model_sha256}),
        training_log=Receipt(folder.log_path, facts),
        sample_previews=Receipt(folder.previews_path, facts),
    )
