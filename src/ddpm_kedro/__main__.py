"""`python -m ddpm_kedro` and the command `ddpm-kedro`: `kedro run` for an installed package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project's pipelines; options are those of `kedro run`."""
    package_name = Path(__file__).parent.name
    configure_project(package_name)
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")  # an interactive session lives on
    return find_run_command(package_name)(*args, **kwargs)


if __name__ == "__main__":
    main()
