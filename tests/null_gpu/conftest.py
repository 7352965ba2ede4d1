"""Tests here use the small trainings and samplers of their neighbours."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("training", "diffusion")]
