"""The log is the truth: whole lines, cut back to where training resumes, whatever the sinks do."""

from __future__ import annotations

import json
import logging
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.tracker import Tracker, read_log

SOURCE = Path(__file__).parents[2] / "src"


class Listener:
    def __init__(self):
        self.heard = []

    def record(self, record):
        self.heard.append(("record", record))

    def preview(self, path, record):
        self.heard.append(("preview", path, record))

    def note(self, key, value):
        self.heard.append(("note", key, value))


def written(path, steps):
    tracker = Tracker()
    tracker.open(path, 0)
    for step in steps:
        tracker.record({"step": step, "loss": 1 / (1 + step)})
    tracker.close()
    return path


def steps(path):
    return [record["step"] for record in read_log(path)]


def test_a_record_is_one_line_of_json_in_the_file_before_record_returns(tmp_path):
    tracker = Tracker()
    tracker.open(tmp_path / "logs" / "log.jsonl", 0)
    tracker.record({"step": 1, "loss": 0.5, "name": "a\nb"})
    text = (tmp_path / "logs" / "log.jsonl").read_text()
    assert text.count("\n") == 1
    assert json.loads(text) == {"step": 1, "loss": 0.5, "name": "a\nb"}
    tracker.close()


def test_numbers_of_any_make_are_written_and_those_that_are_not_finite_are_null(tmp_path):
    tracker = Tracker()
    tracker.open(tmp_path / "log.jsonl", 0)
    tracker.record(
        {
            "step": np.int64(3),
            "loss": torch.tensor(0.25),
            "lr": np.float32(0.5),
            "grad_norm": float("inf"),
            "held_out_loss": torch.tensor(float("nan")),
            "by_class": np.array([1.0, np.nan]),
            "done": True,
        }
    )
    tracker.close()
    line = (tmp_path / "log.jsonl").read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    assert json.loads(line) == {
        "step": 3,
        "loss": 0.25,
        "lr": 0.5,
        "grad_norm": None,
        "held_out_loss": None,
        "by_class": [1.0, None],
        "done": True,
    }


def test_opening_cuts_back_to_the_step_and_appends_there(tmp_path):
    path = written(tmp_path / "log.jsonl", range(1, 11))
    kept = path.read_bytes().splitlines(keepends=True)[:6]
    tracker = Tracker()
    tracker.open(path, 6)
    assert path.read_bytes() == b"".join(kept)
    tracker.record({"step": 7})
    tracker.close()
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_with_nothing_to_cut_is_not_rewritten(tmp_path):
    path = written(tmp_path / "log.jsonl", [1, 2])
    inode = path.stat().st_ino
    tracker = Tracker()
    tracker.open(path, 2)
    tracker.close()
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\xff\x00\n", b"[3]\n"])
def test_a_torn_line_is_dropped(tmp_path, torn, caplog):
    path = written(tmp_path / "log.jsonl", [1, 2])
    whole = path.read_bytes()
    assert steps(path) == [1, 2]
    assert not caplog.records
    path.write_bytes(whole + torn)
    assert steps(path) == [1, 2]
    assert "1 of 3 lines are torn" in caplog.text
    tracker = Tracker()
    tracker.open(path, 10)
    tracker.close()
    assert path.read_bytes() == whole


def test_cutting_back_that_is_killed_leaves_the_longer_log(tmp_path):
    path = written(tmp_path / "log.jsonl", [1, 2, 3])
    before = path.read_bytes()
    code = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from ddpm_kedro.training.tracker import Tracker
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        Tracker().open(sys.argv[2], 1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(SOURCE), str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before


def test_every_record_before_a_kill_is_there(tmp_path):
    path = tmp_path / "log.jsonl"
    code = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from ddpm_kedro.training.tracker import Tracker
        tracker = Tracker()
        tracker.open(sys.argv[2], 0)
        for step in range(100):
            tracker.record({"step": step})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(SOURCE), str(path)])
    assert steps(path) == list(range(100))


def test_a_full_disk_is_one_clear_line_and_leaves_whole_records(tmp_path):
    path = tmp_path / "log.jsonl"
    code = """
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from ddpm_kedro.errors import InputError
        from ddpm_kedro.training.tracker import Tracker
        tracker = Tracker()
        tracker.open(sys.argv[2], 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(1)[1]))
        try:
            for step in range(1000):
                tracker.record({"step": step})
        except InputError as error:
            print(step, error)
    """
    assert resource.RLIMIT_FSIZE == 1
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(SOURCE), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    failed_at, message = result.stdout.strip().split(" ", 1)
    assert steps(path) == list(range(int(failed_at)))
    assert path.read_bytes().endswith(b"}\n")
    assert message == f"{path}: the training log cannot be written (File too large)"


def test_a_log_that_cannot_be_opened_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="training log cannot be written"):
        Tracker().open(tmp_path / "file" / "log.jsonl", 0)


def test_recording_without_a_log_is_a_mistake_of_the_program():
    with pytest.raises(RuntimeError, match=r"before Tracker\.open"):
        Tracker().record({"step": 1})


def test_sinks_hear_everything_until_they_are_detached(tmp_path):
    tracker, listener = Tracker(), Listener()
    tracker.attach(listener)
    tracker.open(tmp_path / "log.jsonl", 0)
    tracker.note("fingerprint", "5f3a")
    tracker.record({"step": 1, "loss": torch.tensor(2.0)})
    tracker.preview("previews/preview_128.png", {"step": 1})
    tracker.detach(listener)
    tracker.detach(listener)
    tracker.record({"step": 2})
    tracker.close()
    assert listener.heard == [
        ("note", "fingerprint", "5f3a"),
        ("record", {"step": 1, "loss": 2.0}),
        ("preview", Path("previews/preview_128.png"), {"step": 1}),
    ]


def test_a_sink_that_raises_is_named_once_and_dropped_and_the_others_hear_on(tmp_path, caplog):
    class Broken(Listener):
        def record(self, record):
            super().record(record)
            raise ConnectionError("no network")

    tracker, broken, listener = Tracker(), Broken(), Listener()
    tracker.attach(broken)
    tracker.attach(listener)
    tracker.open(tmp_path / "log.jsonl", 0)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            tracker.record({"step": step})
    tracker.close()
    assert [r.getMessage() for r in caplog.records] == [
        "Broken failed and hears no more of this training: ConnectionError: no network"
    ]
    assert len(broken.heard) == 1
    assert len(listener.heard) == 3
    assert steps(tmp_path / "log.jsonl") == [1, 2, 3]


def test_a_keyboard_interrupt_in_a_sink_is_not_swallowed(tmp_path):
    class Interrupted(Listener):
        def record(self, record):
            raise KeyboardInterrupt

    tracker = Tracker()
    tracker.attach(Interrupted())
    tracker.open(tmp_path / "log.jsonl", 0)
    with pytest.raises(KeyboardInterrupt):
        tracker.record({"step": 1})
    tracker.close()
    assert steps(tmp_path / "log.jsonl") == [1]
