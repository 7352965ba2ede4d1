"""How a run ends: one line for a mistake, the exit code of a signal, hooks that are told."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import click
import pytest
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog, DatasetError
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.framework.session import ProjectSession, mistake_in
from ddpm_kedro.framework.skipping import SkippingRunner


class Hook:
    def __init__(self) -> None:
        self.codes: list[int] = []

    def on_interrupt(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def session(tmp_path):
    """A session whose run does what a test gives it, and the hook that watches it."""
    session = ProjectSession("session", package_name="ddpm_kedro", project_path=tmp_path)
    hook = Hook()
    session._hook_manager = SimpleNamespace(get_plugins=lambda: [object(), hook])

    def prepare(monkeypatch, work) -> tuple[ProjectSession, Hook]:
        monkeypatch.setattr(KedroSession, "run", lambda self, **options: work())
        return session, hook

    return prepare


def fail(error: BaseException):
    def work():
        raise error

    return work


def wrapped() -> None:
    try:
        raise InputError("seed=x: give a number")
    except InputError as error:
        raise RuntimeError("Failed while loading data") from error


def test_the_logging_of_the_projects_configuration_is_used(tmp_path, monkeypatch):
    used: list[str] = []
    monkeypatch.setattr("ddpm_kedro.framework.session.use_logging_of", used.append)
    ProjectSession("session", package_name="ddpm_kedro", project_path=tmp_path)
    assert used == [str(tmp_path / "conf")]


def test_the_result_passes(session, monkeypatch):
    run, hook = session(monkeypatch, lambda: {"model": 1})
    assert run.run() == {"model": 1}
    assert hook.codes == []


def test_a_mistake_is_one_line_on_the_command_line_and_itself_in_python(session, monkeypatch):
    run, _ = session(monkeypatch, wrapped)
    with pytest.raises(InputError, match="seed=x: give a number"):
        run.run()
    with click.Context(click.Command("run")), pytest.raises(click.ClickException) as refused:
        run.run()
    assert refused.value.message == "seed=x: give a number"
    assert refused.value.exit_code == 1


def test_parallel_runner_is_refused_before_any_work(session, monkeypatch):
    worked = []
    run, _ = session(monkeypatch, lambda: worked.append(True))
    with pytest.raises(InputError, match="--runner ParallelRunner"):
        run.run(runner=ParallelRunner(max_workers=1))
    assert worked == []


def test_a_stop_is_told_once(session, monkeypatch, caplog, capsys):
    run, _ = session(monkeypatch, fail(Stopped(signal.SIGTERM, "stopped and saved")))
    with pytest.raises(SystemExit):
        run.run()
    told = capsys.readouterr().err.count("stopped and saved")
    assert told + [record.getMessage() for record in caplog.records].count("stopped and saved") == 1


def test_a_fault_of_ours_keeps_its_traceback(session, monkeypatch):
    run, _ = session(monkeypatch, fail(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        run.run()


def test_a_fault_while_a_mistake_was_handled_is_still_a_fault():
    fault = KeyError("fault")
    fault.__context__ = InputError("mistake")
    assert mistake_in(fault) is None


def test_a_wrong_pipeline_name_is_a_mistake():
    error = ValueError("Failed to find the pipeline named 'trainin'. \nDid you mean\n    training")
    assert str(mistake_in(error)).endswith("Did you mean training")


def test_a_wrong_catalog_entry_is_a_mistake():
    catalog = DataCatalog.from_config({"model": {"type": "ddpm_kedro.datasets.ModelFlie"}})
    with pytest.raises(DatasetError) as refused:
        _ = catalog["model"]
    said = str(mistake_in(refused.value))
    assert "'model'" in said
    assert "ModelFlie" in said
    assert "\n" not in said
    assert mistake_in(DatasetError("Failed while loading data")) is None


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, [130]),
        (SystemExit(143), 143, [143]),
        (Stopped(signal.SIGTERM, "saved"), 143, []),  # Kedro itself tells hooks of an Exception
        (Stopped(signal.SIGINT, "saved"), 130, []),
    ],
)
def test_a_stop_ends_with_its_code(session, monkeypatch, error, code, told):
    run, hook = session(monkeypatch, fail(error))
    with pytest.raises(SystemExit) as ended:
        run.run()
    assert ended.value.code == code
    assert hook.codes == told


def test_sigterm_unwinds_the_run_and_the_handler_is_put_back(session, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    closed = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    run, hook = session(monkeypatch, work)
    with pytest.raises(SystemExit) as ended:
        run.run()
    assert (ended.value.code, hook.codes, closed) == (143, [143], [True])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("given", [{}, {"runner": None}, {"runner": SequentialRunner()}])
def test_a_sequential_run_does_nothing_twice(session, monkeypatch, given):
    used: dict = {}
    run, _ = session(monkeypatch, dict)
    monkeypatch.setattr(KedroSession, "run", lambda self, **options: used.update(options))
    run.run(tags=["gpu"], **given)
    assert used["tags"] == ["gpu"]
    assert type(used["runner"]) is SkippingRunner
    assert not used["runner"]._is_async


def test_other_runners_and_asynchronous_saving_are_left_as_asked(session, monkeypatch):
    used: list = []
    run, _ = session(monkeypatch, dict)
    monkeypatch.setattr(
        KedroSession, "run", lambda self, *given, runner: used.extend([*given, runner])
    )
    threads = ThreadRunner()
    run.run(runner=threads)
    run.run(None, runner=SequentialRunner(is_async=True))
    assert used[0] is threads
    assert used[1] is None
    assert type(used[2]) is SkippingRunner
    assert used[2]._is_async
