"""Beside the stages: finished runs side by side."""

from ddpm_kedro.pipelines.compare.pipeline import create_pipeline as create_pipeline
