"""Wiring of the export."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.export_diffusers.nodes import export_model


def create_pipeline() -> Pipeline:
    """model -> diffusers_export."""
    return Pipeline(
        [node(export_model, inputs="model", outputs="diffusers_export", name="export_model")]
    )
