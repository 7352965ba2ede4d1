"""Beside the stages: the model as a folder that Hugging Face diffusers opens."""

from ddpm_kedro.pipelines.export_diffusers.pipeline import create_pipeline as create_pipeline
