"""Fixtures that every test may use, and the quiet that every run of the tests needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

# The nets here are tiny: one thread is as fast as two alone, and many times faster on a busy
# machine. Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

os.environ.setdefault("DO_NOT_TRACK", "1")  # no usage data from a test run
os.environ.setdefault("WANDB_MODE", "disabled")  # tests of the W&B hook choose their own mode


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    """cuDNN may take TF32 for one side of a comparison in fp32 only."""
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _levels_of_loggers() -> Iterator[None]:
    """A run in this process sets them, as conf/logging.yml says; the next test expects none set."""
    yield
    logging.getLogger("ddpm_kedro").setLevel(logging.NOTSET)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that a test must hold on: the CPU, and CUDA where there is a GPU."""
    return torch.device(request.param)
