"""Times that a run says beforehand, and those it takes: training, previews, sampling, evaluation.

    python benchmarks/predicted_times.py --env fashion_mnist --params training.max_minutes=10

Runs the whole project in this process and writes ``benchmarks/results/predicted_times.json``. The
predicted times are those that the log records carry as ``predicted``: the training's are said after
its first steps, the others' when their stage begins.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import _split_params
from kedro.framework.hooks import hook_impl
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from measurement import RESULTS, chosen_device, machine, markdown_table, save_results, versions

PROJECT = Path(__file__).parents[1]
TIMED_NODES = {"sample_images": "sampling", "evaluate_samples": "evaluation"}


class Clock(logging.Handler):
    """Hears what is predicted and what was taken, and times two nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.predicted: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self._node_began_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        predicted = dict(getattr(record, "predicted", {}))
        if "training" in predicted:  # what was over when it was said counts too
            predicted["training"] += time.monotonic() - self._node_began_at
        self.predicted |= predicted
        self.took |= getattr(record, "took", {})

    @hook_impl
    def before_pipeline_run(self) -> None:
        logging.getLogger("ddpm_kedro").addHandler(self)

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        self._node_began_at = time.monotonic()

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        if node.name in TIMED_NODES:
            self.took[TIMED_NODES[node.name]] = time.monotonic() - self._node_began_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--env", default="fashion_mnist")
    parser.add_argument("--params", default="training.max_minutes=10", help="as for `kedro run`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    facts = machine(chosen_device())
    clock = Clock()
    bootstrap_project(PROJECT)
    with tempfile.TemporaryDirectory() as data_root:
        params = _split_params(None, None, f"data_root={data_root},{options.params}")
        with KedroSession.create(PROJECT, env=options.env, runtime_params=params) as session:
            session._hook_manager.register(clock)
            session.run()
    rows = [
        {"part": part, "predicted_seconds": clock.predicted.get(part), "seconds": took}
        for part, took in clock.took.items()
    ]
    print(markdown_table(
        ("part", "predicted, s", "taken, s", "taken / predicted"),
        [(*row.values(), row["seconds"] / (row["predicted_seconds"] or math.nan)) for row in rows],
    ))  # fmt: skip
    results = {
        "machine": facts,
        "versions": versions(),
        "env": options.env,
        "params": options.params,
        "times": rows,
    }
    print(save_results("predicted_times", results, options.results))


if __name__ == "__main__":
    main()
