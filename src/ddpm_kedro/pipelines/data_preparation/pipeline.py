"""Wiring of the data preparation stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.data_preparation.nodes import prepare_images


def create_pipeline() -> Pipeline:
    """raw_images -> train_images, test_images, data_card."""
    prepare = node(
        prepare_images,
        inputs=["raw_images", "image_store", "params:preparation"],
        outputs=["train_images", "test_images", "data_card"],
        name="prepare_images",
    )
    return Pipeline([prepare])
