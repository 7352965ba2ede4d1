"""Beside the stages: a folder of Hugging Face diffusers as the model."""

from ddpm_kedro.pipelines.import_diffusers.pipeline import create_pipeline as create_pipeline
