"""What each stage of dvc.yaml is made from besides files: `python -m ...framework.stage_inputs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project

from ddpm_kedro.errors import InputError
from ddpm_kedro.files import atomic_write
from ddpm_kedro.parameters import Parameters
from ddpm_kedro.plain import canonical

STAGES = ("data_preparation", "training", "sampling", "evaluation")


def stage_inputs(project: Path) -> dict[str, dict[str, Any]]:
    bootstrap_project(project)
    loader = settings.CONFIG_LOADER_CLASS(str(project / "conf"), **settings.CONFIG_LOADER_ARGS)
    tree = loader["parameters"]
    try:
        Parameters.from_tree(tree)
    except InputError as error:
        raise loader.placed(error) from error
    found = {}
    for name in STAGES:
        params = [i for i in pipelines[name].inputs() if i.startswith("params:")]
        found[name] = {"parameters": {p: canonical(tree[p[7:]]) for p in params}}
    return found


def main() -> None:
    try:
        for name, content in stage_inputs(Path.cwd()).items():
            path = Path(f"data/stages/{name}.yaml")
            text = yaml.safe_dump(content, sort_keys=True)
            if not path.is_file() or path.read_text() != text:
                with atomic_write(path, "w") as file:
                    file.write(text)
    except InputError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
