"""Wiring of the export."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.diffusion.interchange import to_diffusers


def create_pipeline() -> Pipeline:
    """model -> diffusers_export; the weights were chosen when the model was loaded."""
    return Pipeline([node(to_diffusers, "model", "diffusers_export", name="export_model")])
