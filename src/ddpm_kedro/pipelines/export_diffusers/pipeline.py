"""Wiring of the export."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.export_diffusers.nodes import export_model


def create_pipeline() -> Pipeline:
    """model -> diffusers_export; the weights were chosen when the model was loaded."""
    return Pipeline([node(export_model, "model", "diffusers_export", name="export_model")])
