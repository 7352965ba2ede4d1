"""Wiring of the evaluation stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.evaluation.nodes import evaluate_samples, write_report


def create_pipeline() -> Pipeline:
    """samples, images, model -> metrics, diagnostics -> report."""
    return Pipeline(
        [
            node(
                evaluate_samples,
                inputs=[
                    "samples",
                    "samples_card",
                    "train_images",
                    "test_images",
                    "model",
                    "params:evaluation",
                ],
                outputs=["metrics", "diagnostics"],
                name="evaluate_samples",
                tags=["gpu"],
            ),
            node(
                write_report,
                inputs=[
                    "samples",
                    "train_images",
                    "training_log",
                    "sample_previews",
                    "training_card",
                    "metrics",
                    "diagnostics",
                ],
                outputs="report",
                name="write_report",
            ),
        ]
    )
