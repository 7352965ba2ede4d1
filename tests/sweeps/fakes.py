"""What tests of sweeps share; as a program, a sweep of three trials in the folder given."""

from __future__ import annotations

import sys
from pathlib import Path

from ddpm_kedro.sweeps import sweep
from ddpm_kedro.sweeps.plan import Plan
from ddpm_kedro.sweeps.settings import SweepSettings
from ddpm_kedro.sweeps.table import Row

PROJECT = Path(__file__).parents[2]
FAKE_RUN = (sys.executable, str(Path(__file__).with_name("fake_run.py")))
SEEDS = {"over": {"seed": [0, 2, 4]}}  # of which the second waits


def plan_of(folder: Path, **tree: object) -> Plan:
    """A plan of what sweep.yml would say."""
    settings = SweepSettings.of("mine", {"env": "smoke", **tree})
    return Plan("mine", settings, PROJECT, folder=folder)


def carry_out(folder: Path, **tree: object) -> dict[str, Row]:
    """The rows of a sweep, by trial."""
    return {row.trial: row for row in sweep.carry_out(plan_of(folder, **tree), FAKE_RUN)}


if __name__ == "__main__":
    from kedro.framework.project import configure_project

    configure_project("ddpm_kedro")
    carry_out(Path(sys.argv[1]), **SEEDS)
