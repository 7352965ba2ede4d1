"""Wiring of the sampling stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.sampling.nodes import draw_grid, sample_images


def create_pipeline() -> Pipeline:
    """model -> samples, samples_card, sample_grid."""
    sample = node(
        sample_images,
        inputs=["model", "params:sampling"],
        outputs=["samples", "samples_card"],  # the card last, as in training
        name="sample_images",
        tags=["gpu"],
    )
    draw = node(draw_grid, ["samples", "params:sampling"], "sample_grid", name="draw_grid")
    return Pipeline([sample, draw])
