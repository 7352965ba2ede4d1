"""The training node, which hands the engine its data, store, tracker and settings; the log as a
table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddpm_kedro.diffusion.model_header import content_hash
from ddpm_kedro.files import Receipt
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.training.settings import TrainingSettings
from ddpm_kedro.training.tracker import Tracker

if TYPE_CHECKING:
    from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
else:  # Kedro reads the annotations at every start, which does without torch
    CheckpointStore = Any

_TIMINGS = ("images_per_second", "elapsed_seconds")


def train_model(
    train_images: ImageSet,
    checkpoints: CheckpointStore,
    tracker: Tracker,
    parameters: TrainingSettings,
) -> tuple[Receipt, Receipt, Receipt, dict[str, Any]]:
    """Train, resume or find the training already done: receipts of the model file, the training log
    and the folder of previews; then the card that says which model they are of."""
    from ddpm_kedro.training.train import train

    receipts = train(train_images, checkpoints, tracker, parameters)
    facts = receipts.training_log.facts
    # No status: a training that is found again is the same one, and makes nothing after it anew.
    told = {key: facts[key] for key in ("fingerprint", "images_seen")}
    card = {"model": content_hash(receipts.model.path), **told}
    return receipts.model, receipts.training_log, receipts.sample_previews, card


def tabulate_log(training_log: Iterable[Mapping[str, Any]]) -> str:
    """The records of a training log as CSV, for whatever draws curves: a row each, a column for
    each name that any of them has but times, which differ where nothing else does; `nan` where a
    record has no value, since DVC draws an empty cell as 0."""
    records = list(training_log)
    columns = dict.fromkeys(name for record in records for name in record if name not in _TIMINGS)
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        values = map(record.get, columns)
        writer.writerow(["nan" if value is None else value for value in values])
    return text.getvalue()
