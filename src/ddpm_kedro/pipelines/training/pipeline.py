"""Wiring of the training stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.training.nodes import train_model


def create_pipeline() -> Pipeline:
    """train_images -> model, training_log, sample_previews."""
    return Pipeline(
        [
            node(
                train_model,
                inputs=["train_images", "checkpoints", "tracker", "params:training"],
                outputs=["model", "training_log", "sample_previews"],
                name="train_model",
                tags=["gpu"],
            )
        ]
    )
