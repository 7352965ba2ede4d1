"""What makes each stage's outputs besides the files that dvc.yaml names, for DVC to compare.

`python -m ddpm_kedro.framework.stage_inputs` writes them, in the project's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.hooks.manager import _NullPluginManager
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project
from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from ddpm_kedro.content import remembering
from ddpm_kedro.datasets.local_entry import writing
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.framework.config_loader import project_loader
from ddpm_kedro.framework.making import code_of, facts_of, parameters_of
from ddpm_kedro.framework.session import mistake_in

STAGES = ("data_preparation", "training", "sampling", "evaluation")
_ROOT = "data"  # below which dvc.yaml has its files
# What a model file keeps of training's parameters, so that code may be reached by it
MODEL_OPTIONS = ("backbone", "noise_schedule", "objective", "loss_weight", "sampler")


def stage_inputs(project: Path) -> dict[str, dict[str, Any]]:
    """For each of `STAGES` what a runner compares, but the content of files that other stages make:
    parameters by name, `code` and `inputs`. A stage that is kept when its code changes has no code.

    InputError where a parameter is wrong, a source of images is not there, or files would lie
    where dvc.yaml does not look for them.
    """
    package = bootstrap_project(project).package_name
    loader = project_loader(project)
    root = loader.checked_parameters().data_root
    if root != _ROOT:
        raise InputError(f"data_root={root}: dvc.yaml tracks {_ROOT}; leave data_root out")
    # Without hooks: one of them would import torch to try the options out, as each stage does
    context = settings.CONTEXT_CLASS(project, loader, loader.env, package, _NullPluginManager())
    catalog = context.catalog
    with remembering(project / root / ".hashes.json"):
        return {stage: _inputs_of(pipelines[stage], catalog) for stage in STAGES}


def _inputs_of(pipeline: Pipeline, catalog: Any) -> dict[str, Any]:
    parameters = parameters_of(pipeline, catalog)
    from_outside = pipelines["__default__"].inputs() & pipeline.inputs()
    inputs = {
        name: facts
        for name in sorted(from_outside)
        if not is_parameter(name) and (facts := facts_of(catalog.get(name)))
    }
    trees = [parameters, inputs]
    if "model" in pipeline.inputs():
        training = parameters_of(pipelines["training"], catalog)["params:training"]
        trees.append({name: training[name] for name in MODEL_OPTIONS})
    is_kept = any("kept" in node.tags for node in pipeline.nodes)  # whatever becomes of its code
    named = {name.removeprefix("params:"): value for name, value in parameters.items()}
    return {**named, "inputs": inputs, "code": {} if is_kept else code_of(pipeline, trees)}


def main() -> None:
    try:
        for stage, content in stage_inputs(Path.cwd()).items():
            path = Path(_ROOT, "stages", f"{stage}.yaml")
            text = yaml.safe_dump(content, sort_keys=True, allow_unicode=True)
            with writing(path):
                if not path.is_file() or path.read_text(encoding="utf-8") != text:
                    with atomic_write(path, "w") as file:
                        file.write(text)
    except Exception as error:
        mistake = mistake_in(error)
        if mistake is None:
            raise
        sys.exit(f"Error: {mistake}")


if __name__ == "__main__":
    main()
