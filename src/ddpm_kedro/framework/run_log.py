"""What a run's log needs beside conf/logging.yml: warnings as lines, no echoes, bars left whole."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import LOGGING, configure_logging

_KEDROS_DEFAULT_HANDLER = "rich"


def use_logging_of(conf_source: str | Path) -> None:
    """Log as `logging.yml` in `conf_source` says, unless the user configured logging.

    Kedro itself looks for it in `conf/` of the working folder only, and takes its own default
    where `kedro run` is called in a folder below the project.
    """
    path = Path(conf_source) / "logging.yml"
    is_default = _KEDROS_DEFAULT_HANDLER in LOGGING.get("handlers", {})
    if is_default and "KEDRO_LOGGING_CONFIG" not in os.environ and path.is_file():
        configure_logging(yaml.safe_load(path.read_text(encoding="utf-8")))


@contextlib.contextmanager
def without_echoes(runner: type, is_told: Callable[[BaseException | None], bool]) -> Iterator[None]:
    """Drop what Kedro's node and `runner`, the class that runs the nodes, log about an error of
    which `is_told` says that it is told in a line of its own."""

    def is_news(record: logging.LogRecord) -> bool:
        return not is_told(sys.exc_info()[1])

    # A runner logs under its module, see AbstractRunner._logger.
    loggers = [logging.getLogger(name) for name in ("kedro.pipeline.node", runner.__module__)]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Log Python's warnings under `py.warnings`, as logging.captureWarnings, in one line each."""

    def show(message: Any, category: type, filename: str, lineno: int, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        logging.getLogger("py.warnings").warning(
            "%s (%s, %s:%d)", text, category.__name__, filename, lineno
        )

    older, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = older


@contextlib.contextmanager
def lines_above_bars() -> Iterator[None]:
    """Write the lines of the log above tqdm's bars where both go to the same terminal."""
    streams = [getattr(handler, "stream", None) for handler in logging.root.handlers]
    if not (sys.stderr.isatty() and sys.stderr in streams):
        yield
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm():
        yield
