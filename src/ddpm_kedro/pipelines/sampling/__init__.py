"""Stage three: the model draws images."""

from ddpm_kedro.pipelines.sampling.pipeline import create_pipeline as create_pipeline
