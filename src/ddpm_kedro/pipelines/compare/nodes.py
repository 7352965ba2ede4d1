"""The comparison node."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

LOGGER = logging.getLogger(__name__)


def compare_runs(runs: Mapping[str, Path]) -> tuple[str, dict[str, Any], Image.Image]:
    """The page, the table and the film of a comparison; InputError where a folder is no finished
    run."""
    from ddpm_kedro.evaluation.comparison import compare

    found = compare(runs)
    LOGGER.info("%s", found.table["verdict"])
    return found.html, found.table, Image.open(io.BytesIO(found.film))
