"""Wiring of the training stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.training.nodes import tabulate_log, train_model


def create_pipeline() -> Pipeline:
    """train_images -> model, training_log, sample_previews, training_card; the log as a table."""
    train = node(
        train_model,
        inputs=["train_images", "checkpoints", "tracker", "params:training"],
        # saved in this order: the card last, so that it fits nothing after a kill
        outputs=["model", "training_log", "sample_previews", "training_card"],
        name="train_model",
        tags=["gpu", "kept"],  # kept: other code alone does not run it again
    )
    tabulate = node(tabulate_log, "training_log", "training_table", name="tabulate_log")
    return Pipeline([train, tabulate])
