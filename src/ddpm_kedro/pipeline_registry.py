"""The pipelines that `kedro run --pipelines` and `kedro viz` know, by name."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from ddpm_kedro.pipelines import (
    compare,
    data_preparation,
    evaluation,
    export_diffusers,
    import_diffusers,
    sampling,
    training,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Written out rather than found: discovery breaks a composite `__default__` when one stage
    alone is asked for, and typing a wrong name gets a suggestion this way."""
    stages = {
        "data_preparation": data_preparation.create_pipeline(),
        "training": training.create_pipeline(),
        "sampling": sampling.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
    }
    beside = {
        "compare": compare.create_pipeline(),
        "export_diffusers": export_diffusers.create_pipeline(),
        "import_diffusers": import_diffusers.create_pipeline(),
    }
    return {"__default__": sum(stages.values(), Pipeline([])), **stages, **beside}
