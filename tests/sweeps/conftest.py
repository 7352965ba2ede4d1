"""Sweeps of the project, with a script in the place of `kedro run`."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from kedro.framework.project import configure_project


@pytest.fixture(scope="session")
def project() -> Path:
    configure_project("ddpm_kedro", preserve_logging=True)
    return fakes.PROJECT


@pytest.fixture
def folder(project, tmp_path) -> Path:
    """Where a sweep is kept."""
    return tmp_path / "sweep"


@pytest.fixture
def plan(folder):
    return lambda **tree: fakes.plan_of(folder, **tree)


@pytest.fixture
def run(folder):
    return lambda **tree: fakes.carry_out(folder, **tree)
