"""Wiring of the sampling stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.sampling.nodes import draw_grid, sample_images


def create_pipeline() -> Pipeline:
    """model -> samples, samples_card, sample_grid."""
    return Pipeline(
        [
            node(
                sample_images,
                inputs=["model", "params:sampling"],
                outputs=["samples", "samples_card"],  # the card last, as in training
                name="sample_images",
                tags=["gpu"],
            ),
            node(
                draw_grid,
                inputs=["samples", "params:sampling"],
                outputs="sample_grid",
                name="draw_grid",
            ),
        ]
    )
