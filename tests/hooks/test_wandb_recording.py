"""Where a recording goes and that it never asks, hangs or raises: keys, networks, terminals."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_reader import offline_runs
from wandb_server import serving

from ddpm_kedro.hooks import wandb_service as service
from ddpm_kedro.hooks.wandb_recording import Recording
from ddpm_kedro.hooks.wandb_settings import Mode, WandbSettings

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "conf/base/wandb.yml").read_text())
KEY = "0" * 40


@pytest.fixture(autouse=True)
def bare_environment(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # A closed port of this machine: whatever would go to a server is refused at once.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def recording(
    folder: Path,
    mode: Mode | None = None,
    init_timeout: float = 60,
    finish_timeout: float = 60,
    **options: Any,
) -> Recording:
    times = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
    settings = WandbSettings.from_config({**SHIPPED, **times})
    return Recording(settings, mode, folder, {"a": 1}, **options)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r for r in caplog.records if r.levelno >= logging.WARNING]
    return [r.getMessage() for r in found if r.name.startswith("ddpm_kedro")]


def test_without_a_key_it_is_offline_and_says_how_to_upload(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ddpm_kedro")
    recording(tmp_path).finish(0)
    (run,) = offline_runs(tmp_path)
    assert caplog.messages[-1] == f"W&B: recording offline; `wandb sync {run.folder}` uploads it"
    assert run.folder.name.startswith("offline-run-")
    assert warnings(caplog) == []


def test_a_home_folder_that_cannot_be_looked_into_does_not_matter(tmp_path, monkeypatch, caplog):
    home = tmp_path / ("x" * 300)  # fails like a folder without permission, for root too
    with pytest.raises(OSError, match="too long"):
        (home / ".config").stat()
    monkeypatch.setenv("HOME", str(home))
    recording(tmp_path).finish(0)
    assert warnings(caplog) == []
    assert len(offline_runs(tmp_path)) == 1


def test_online_without_a_key_is_offline_with_one_warning(tmp_path, caplog):
    recording(tmp_path, "online").finish(0)
    assert len(offline_runs(tmp_path)) == 1
    (line,) = warnings(caplog)
    assert "there is no key" in line


@pytest.mark.parametrize("where", ["WANDB_API_KEY", "netrc"])
def test_a_key_without_a_network_falls_back_to_offline(tmp_path, monkeypatch, caplog, where):
    if where == "netrc":
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9 login user password {KEY}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    else:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    told = recording(tmp_path)
    told.record({"step": 1, "images_seen": 8, "loss": 0.5})
    told.finish(0)
    (line,) = warnings(caplog)
    assert line.startswith("W&B: going on offline, http://127.0.0.1:9: ")
    assert os.strerror(errno.ECONNREFUSED) in line
    (run,) = offline_runs(tmp_path)
    assert run.folder.name.startswith("offline-run-")
    assert [row["loss"] for row in run.history] == [0.5]
    assert {path.name.split("-")[0] for path in (tmp_path / "wandb").glob("*run-*")} == {"offline"}


def test_a_key_and_a_server_that_answers_are_online(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        told = recording(tmp_path, wait_for_fingerprint=True)
        assert server.asked.wait(60)  # looked for beside the work before training
        assert server.runs == []
        told.note("fingerprint", "f00d")
        told.record({"step": 1, "images_seen": 8, "loss": 0.125})
        told.finish(0)
    assert warnings(caplog) == []
    assert (server.runs[0]["project"], server.runs[0]["groupName"]) == ("ddpm_kedro", "f00d")
    assert "0.125" in "".join(server.told)
    (run,) = offline_runs(tmp_path)
    assert run.folder.name.startswith("run-")


def test_a_server_that_never_answers_is_left_after_the_timeout(tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, says nothing
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setattr(service, "_begin_online", None)  # W&B's own limit is not waited for
        told = recording(tmp_path, init_timeout=1)
        told.record({"step": 1, "images_seen": 8, "loss": 0.5})
        told.finish(0)
    (line,) = warnings(caplog)
    assert line.startswith("W&B: going on offline, http://127.0.0.1:")
    assert line.endswith(("no answer within 1 s", "timed out"))
    (run,) = offline_runs(tmp_path)
    assert [row["loss"] for row in run.history] == [0.5]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silence_is_known_after_the_time_given(scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        assert service.why_silent(url, 0.1) is not None


def test_a_name_that_is_looked_up_for_ever_is_silence(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: released.wait(60))
    try:
        found = service.why_silent("http://w-and-b.invalid", 0.1)
    finally:
        released.set()
    assert found == "no answer within 0.1 s"


@pytest.mark.parametrize(
    ("status", "silent"), [(200, False), (401, False), (404, False), (500, False), (503, True)]
)
def test_any_answer_but_that_of_a_gateway_alone_is_one(status, silent):
    with serving(status) as server:
        assert (service.why_silent(server.url, 60) is not None) == silent


def test_what_w_and_b_may_know_better_is_left_to_it():
    """An answer in another protocol, as of a certificate that Python does not know; a proxy."""
    with serving() as server:
        assert service.why_silent(server.url.replace("http:", "https:"), 60) is None
        assert service.why_silent("http://127.0.0.1:9", 60, {"http": "socks5://a:1"}) is None
        assert service.why_silent("http://127.0.0.1:9", 60, {"http": server.url}) is None


def test_an_end_that_hangs_is_given_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ddpm_kedro.hooks.wandb_recording._GRACE_SECONDS", 0.1)
    told = recording(tmp_path, finish_timeout=0.1)
    released = threading.Event()
    told._actions.put(lambda run, wandb: released.wait(60))
    environment = dict(os.environ)
    try:
        told.finish(0)
        (line,) = warnings(caplog)
        assert line.startswith("W&B does not answer; `wandb sync` uploads what lies in ")
        assert not released.is_set()
        assert {k for k in os.environ if k.startswith("WANDB_")} == {"WANDB_BASE_URL"}
        assert environment.keys() > os.environ.keys()
    finally:
        released.set()
        told._talker.join(60)


def test_a_key_that_is_none_falls_back_to_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "my secret")
    with serving(401) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        recording(tmp_path).finish(0)
    (line,) = warnings(caplog)
    assert line.startswith("W&B: going on offline, the server did not take the run: ")
    assert "secret" not in line
    assert len(offline_runs(tmp_path)) == 1


def test_it_waits_for_the_fingerprint_and_keeps_what_it_is_told(tmp_path):
    told = recording(tmp_path, wait_for_fingerprint=True)
    told.note("data", "abc")
    told.summary({"before": 1})
    assert offline_runs(tmp_path) == []
    told.note("fingerprint", "f00d")
    told.note("status", "new")
    told.finish(0)
    (run,) = offline_runs(tmp_path)
    assert run.group == "f00d"
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    assert config == {"a": 1, "fingerprint": "f00d", "facts": {"data": "abc", "status": "new"}}
    assert run.summary["before"] == 1


def test_records_without_a_fingerprint_are_not_lost(tmp_path):
    told = recording(tmp_path, wait_for_fingerprint=True)
    told.record({"step": 1, "images_seen": 8, "loss": 0.5})
    told.finish(0)
    (run,) = offline_runs(tmp_path)
    assert (run.group, len(run.history)) == ("", 1)


def test_records_keep_their_order_after_many_others(tmp_path):
    """W&B drops what is logged at an earlier step of its own count, so none is given to it."""
    told = recording(tmp_path)
    for number in range(5):
        told.summary({"n": number})
        told._actions.put(lambda run, wandb: run.log({"picture": 1}))
    for step in (1, 2, 3):
        told.record({"step": step, "images_seen": 8 * step, "loss": 1.0})
    told.finish(0)
    (run,) = offline_runs(tmp_path)
    assert [row["step"] for row in run.history if "step" in row] == [1, 2, 3]


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    told = recording(tmp_path / "file")
    told.record({"step": 1, "images_seen": 8, "loss": 0.5})
    told.preview(tmp_path / "none.png", {})
    told.finish(0)
    (line,) = warnings(caplog)
    assert os.strerror(errno.ENOTDIR) in line


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds W&B's process in Linux's /proc"
)
def test_a_service_that_dies_does_not_end_the_run(tmp_path, caplog):
    """SIGKILL W&B's own process: what is told afterwards is lost, with at most one warning."""
    program = f"""
        import logging, os, signal, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "tests/hooks")!r})
        from test_wandb_recording import recording
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        told = recording(Path({str(tmp_path)!r}))
        told.record({{"step": 1, "images_seen": 8, "loss": 0.5}})
        while not list(Path({str(tmp_path)!r}).rglob("run-*.wandb")):
            time.sleep(0.01)  # W&B begins in a thread of its own
        lists = Path("/proc/self/task").glob("*/children")
        children = " ".join(path.read_text() for path in lists).split()
        assert children
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        for step in range(2, 2000):
            told.record({{"step": step, "images_seen": 8 * step, "loss": 0.5}})
        told.finish(0)
        print("training went on")
    """
    done = python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("training went on\n")
    assert done.stderr.count("W&B failed") == 1, done.stderr


def test_a_terminal_is_not_asked_for_a_key(tmp_path):
    """Standard input, output and errors are a terminal that nobody types on."""
    pty = pytest.importorskip("pty")
    program = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "tests/hooks")!r})
        from test_wandb_recording import recording
        assert sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
        recording(Path({str(tmp_path)!r}), "online").finish(0)
        print("not asked")
    """
    ours, theirs = pty.openpty()
    try:
        done = python(program, stdin=theirs, stdout=theirs, stderr=theirs)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, shown
    assert "not asked" in shown
    assert "choice" not in shown.lower()


def python(program: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    streams = streams or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        text=True,
        timeout=60,
        **streams,
    )
