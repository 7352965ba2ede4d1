"""Runs side by side: what differs, which is better, and whether that is more than noise."""

from ddpm_kedro.evaluation.comparison.page import Comparison as Comparison
from ddpm_kedro.evaluation.comparison.page import compare as compare
