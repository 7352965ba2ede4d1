"""Signals that end a training."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from ddpm_kedro.errors import Stopped
from ddpm_kedro.training.stops import StopRequest


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_the_second_acts(signum: signal.Signals) -> None:
    acted = []
    before = signal.signal(signum, lambda *_: acted.append(signum))
    try:
        with StopRequest() as request:
            assert request.signum is None
            os.kill(os.getpid(), signum)
            assert request.signum == signum
            assert acted == []
            os.kill(os.getpid(), signum)
            assert acted == [signum]
        os.kill(os.getpid(), signum)
        assert acted == [signum, signum]
    finally:
        signal.signal(signum, before)


def test_in_another_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopRequest() as request:
            seen.append((request.signum, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_exit_codes_are_the_shells() -> None:
    assert Stopped(signal.SIGINT).exit_code == 130
    assert Stopped(signal.SIGTERM).exit_code == 143
    again = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, "saved")))
    assert (again.signum, str(again)) == (signal.SIGTERM, "saved")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no namespaces of processes here")
def test_a_worker_lives_where_its_parent_is_the_first_process_of_a_container() -> None:
    code = """
        import multiprocessing, os
        from ddpm_kedro.training.stops import die_with_parent
        worker = multiprocessing.get_context("spawn").Process(target=die_with_parent)
        worker.start()
        worker.join()
        print(os.getpid(), worker.exitcode)
    """
    python = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        ["unshare", "--map-root-user", "--pid", "--fork", *python],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if "unshare" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    assert ran.stdout.split() == ["1", "0"]
