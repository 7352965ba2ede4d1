"""Wiring of the import."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.import_diffusers.nodes import import_model


def create_pipeline() -> Pipeline:
    """diffusers_import -> model, training_card."""
    return Pipeline(
        [
            node(
                import_model,
                inputs=["diffusers_import", "params:data_root"],
                outputs=["model", "training_card"],
                name="import_model",
            )
        ]
    )
