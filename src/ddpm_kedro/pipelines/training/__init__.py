"""Stage two: the model learns."""

from ddpm_kedro.pipelines.training.pipeline import create_pipeline as create_pipeline
