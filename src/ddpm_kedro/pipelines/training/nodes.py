"""The training node: hands the engine its data, its store, its tracker and its settings."""

from __future__ import annotations

from ddpm_kedro.files import Receipt
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.parameters import TrainingParameters
from ddpm_kedro.training.checkpoints import CheckpointStore
from ddpm_kedro.training.loop import train
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.tracker import Tracker


def train_model(
    train_images: ImageSet,
    checkpoints: CheckpointStore,
    tracker: Tracker,
    parameters: TrainingParameters,
) -> tuple[Receipt, Receipt, Receipt]:
    """Train, resume or find the training already done.

    Returns:
        receipts of the model file, the training log and the folder of previews.
    """
    settings = TrainingSettings(**parameters.model_dump())
    receipts = train(train_images, checkpoints, tracker, settings)
    return receipts.model, receipts.training_log, receipts.sample_previews
