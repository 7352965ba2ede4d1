"""The training node: hands the engine its data, its store, its tracker and its settings."""

from __future__ import annotations

from typing import Any

from ddpm_kedro.diffusion.model_header import content_hash
from ddpm_kedro.files import Receipt
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.train import train


def train_model(
    train_images: ImageSet,
    checkpoints: CheckpointStore,
    tracker: Tracker,
    parameters: TrainingSettings,
) -> tuple[Receipt, Receipt, Receipt, dict[str, Any]]:
    """Train, resume or find the training already done: receipts of the model file, the training log
    and the folder of previews; then the card that says which model they are of."""
    receipts = train(train_images, checkpoints, tracker, parameters)
    card = {"model": content_hash(receipts.model.path), **receipts.training_log.facts}
    return receipts.model, receipts.training_log, receipts.sample_previews, card
