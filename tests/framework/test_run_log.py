"""What a run's log leaves out, what it adds, and how it shares a terminal with a bar."""

from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner, ThreadRunner
from tqdm import tqdm

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.framework import run_log
from ddpm_kedro.framework.session import _is_told


class Missing(AbstractDataset):
    """A dataset whose file is not there."""

    def load(self) -> None:
        raise InputError("no model at model.safetensors")

    def save(self, data: object) -> None: ...

    def _describe(self) -> dict[str, object]:
        return {}


def failing(error: Exception) -> tuple[Pipeline, DataCatalog]:
    def fail() -> None:
        raise error

    return Pipeline([node(fail, None, "nothing", name="fail")]), DataCatalog()


def loading() -> tuple[Pipeline, DataCatalog]:
    pipeline = Pipeline([node(lambda model: "text", "model", "text", name="load")])
    return pipeline, DataCatalog({"model": Missing()})


def kedros_lines(caplog, runner, pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    """What Kedro says at WARNING or above about a run that fails."""
    caplog.clear()
    with run_log.without_echoes(type(runner), _is_told), pytest.raises(Exception):  # noqa: B017
        runner.run(pipeline, catalog, _create_hook_manager())
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize(
    "runner", [SequentialRunner(), ThreadRunner(max_workers=1)], ids=["one by one", "threads"]
)
def test_kedro_says_nothing_of_what_is_told_in_one_line(caplog, runner):
    assert kedros_lines(caplog, runner, *failing(InputError("seed=x"))) == []
    assert kedros_lines(caplog, runner, *failing(Stopped(2, "saved"))) == []
    assert kedros_lines(caplog, runner, *loading()) == []
    of_a_fault = kedros_lines(caplog, runner, *failing(ZeroDivisionError("ours")))
    assert any("ours" in line for line in of_a_fault)
    with pytest.raises(InputError):  # and afterwards it says all
        SequentialRunner().run(*failing(InputError("seed=x")), _create_hook_manager())
    assert any("seed=x" in record.getMessage() for record in caplog.records)


def test_a_python_warning_is_one_line_of_the_log(caplog):
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with run_log.warnings_as_lines():
            for _ in range(3):
                warnings.warn("deep\n  trouble", RuntimeWarning, stacklevel=1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("deep trouble (RuntimeWarning, ")
    assert "\n" not in record.getMessage()
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("handlers", "environment", "is_used"),
    [
        ({"rich": {}}, {}, True),  # Kedro's default, taken where the project's was not found
        ({"console": {}}, {}, False),
        ({"rich": {}}, {"KEDRO_LOGGING_CONFIG": "mine.yml"}, False),
    ],
)
def test_the_projects_logging_holds_below_it_unless_the_user_chose(
    tmp_path, monkeypatch, handlers, environment, is_used
):
    used = []
    monkeypatch.setattr(run_log, "LOGGING", {"handlers": handlers})
    monkeypatch.setattr(run_log, "configure_logging", used.append)
    monkeypatch.delenv("KEDRO_LOGGING_CONFIG", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run_log.use_logging_of(tmp_path)  # no file there: nothing happens
    (tmp_path / "logging.yml").write_text("version: 1\n")
    run_log.use_logging_of(tmp_path)
    assert used == [{"version": 1}] * is_used


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_does_not_tear_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(terminal)])
    before = logging.root.handlers
    with run_log.lines_above_bars(), tqdm(total=2, file=terminal, ncols=60) as bar:
        bar.update(1)
        logging.getLogger("ddpm_kedro").warning("a line of its own")
        bar.update(1)
    # What stands before the last carriage return of a line is overwritten on a terminal.
    shown = [line.rsplit("\r")[-1] for line in terminal.getvalue().splitlines()]
    assert "a line of its own" in shown
    assert logging.root.handlers is before


def test_where_there_is_no_terminal_the_handlers_stay(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handlers = [logging.StreamHandler(sys.stderr)]
    monkeypatch.setattr(logging.root, "handlers", handlers)
    with run_log.lines_above_bars():
        assert logging.root.handlers is handlers
