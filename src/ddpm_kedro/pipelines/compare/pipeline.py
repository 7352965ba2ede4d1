"""Wiring of the comparison."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from ddpm_kedro.pipelines.compare.nodes import compare_runs


def create_pipeline() -> Pipeline:
    """runs -> comparison, comparison_table, film_strip."""
    outputs = ["comparison", "comparison_table", "film_strip"]
    return Pipeline([node(compare_runs, "runs", outputs, name="compare_runs")])
