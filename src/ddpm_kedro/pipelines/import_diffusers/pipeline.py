"""Wiring of the import."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.import_diffusers.nodes import import_model


def create_pipeline() -> Pipeline:
    """diffusers_import -> model, training_card."""
    inputs, outputs = ["diffusers_import", "params:data_root"], ["model", "training_card"]
    return Pipeline([node(import_model, inputs, outputs, name="import_model")])
