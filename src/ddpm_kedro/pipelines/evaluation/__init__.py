"""Stage four: how good the samples and the model are."""

from ddpm_kedro.pipelines.evaluation.pipeline import create_pipeline as create_pipeline
