"""Stage one: images become arrays."""

from ddpm_kedro.pipelines.data_preparation.pipeline import create_pipeline as create_pipeline
