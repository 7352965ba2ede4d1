"""Wiring of the evaluation stage."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.evaluation.nodes import evaluate_samples, write_report


def create_pipeline() -> Pipeline:
    """samples, images, model, training log -> metrics, diagnostics -> report."""
    images, log = ["train_images", "test_images"], ["training_log", "sample_previews"]
    evaluate = node(
        evaluate_samples,
        inputs=[
            *("samples", "samples_card", *images, "model", "training_log", "training_card"),
            *("feature_store", "params:evaluation"),
        ],
        outputs=["metrics", "diagnostics"],
        name="evaluate_samples",
        tags=["gpu"],
    )
    report = node(
        write_report,
        inputs=[
            *("samples", "train_images", *log, "training_card", "metrics", "diagnostics"),
            "records",
        ],
        outputs="report",
        name="write_report",
    )
    return Pipeline([evaluate, report])
