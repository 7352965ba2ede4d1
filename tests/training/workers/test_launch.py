"""Two gloo workers on this machine: the same images, the same losses, whatever happens to them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_training import assert_same_bits, last_tensors, run, tiny_settings, untimed_log

from ddpm_kedro.errors import InputError, Stopped
from ddpm_kedro.training.tracker import Tracker
from ddpm_kedro.training.train import TrainingReceipts

SCORES = {"score_every_kimg": 0.08}
TWO = {"distributed": {"workers": 2, "max_restarts": 1}, **SCORES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingReceipts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return run(tmp_path_factory.mktemp("undisturbed"), **TWO)


class Once:
    """A sink that does something when the record of a step comes for the first time."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action
        self.done = False

    def record(self, record: dict[str, Any]) -> None:
        if record["step"] == self.step and not self.done:
            self.done = True
            self.action()

    def preview(self, path: Path, record: dict[str, Any]) -> None:
        pass

    def note(self, key: str, value: Any) -> None:
        pass


def kill_a_worker() -> None:
    children = multiprocessing.active_children()
    workers = [child for child in children if not child.name.startswith("SyncManager")]
    assert len(workers) == 2
    os.kill(int(workers[-1].pid or 0), signal.SIGKILL)


def test_two_workers_compute_what_one_does(tmp_path: Path, undisturbed: TrainingReceipts) -> None:
    alone = run(tmp_path, **SCORES)
    assert alone.model.path.parent.name == undisturbed.model.path.parent.name
    pairs = zip(untimed_log(alone), untimed_log(undisturbed), strict=True)
    for one, two in pairs:
        assert one.keys() == two.keys()
        for key, value in one.items():
            wanted = 0.01 if key == "quick_score" else 1e-5  # its samples are whole grey levels
            assert two[key] == pytest.approx(value, abs=1e-5, rel=wanted), key
    assert sum("quick_score" in record for record in untimed_log(undisturbed)) == 2


def test_two_workers_start_without_a_warning_of_torch_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """That the launcher leaves the signals to this process is meant."""
    with caplog.at_level(logging.INFO):
        run(tmp_path, **TWO)
    assert "training" in caplog.text
    assert "Failed to register signal handlers" not in caplog.text
    assert "Warning" not in capfd.readouterr().err
    assert not logging.getLogger("torch.distributed.elastic.multiprocessing.api").filters


def test_a_killed_worker_changes_nothing(
    tmp_path: Path, undisturbed: TrainingReceipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killing = Once(12, kill_a_worker)
    tracker = Tracker()
    tracker.attach(killing)
    receipts = run(tmp_path, tracker, **TWO)
    assert killing.done
    assert receipts.model.path.read_bytes() == undisturbed.model.path.read_bytes()
    assert_same_bits(last_tensors(receipts), last_tensors(undisturbed))
    assert untimed_log(receipts) == untimed_log(undisturbed)


def train_on_one_of_two_machines(root: Path, rendezvous: str) -> None:
    two = {"nodes": 2, "rendezvous": rendezvous, "wait_minutes": 2}
    run(root, distributed=two, **SCORES)


def test_two_machines_end_with_the_same_model_each(
    tmp_path: Path, undisturbed: TrainingReceipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents with a folder and one worker each, as on two machines."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    machines = [
        multiprocessing.get_context("spawn").Process(
            target=train_on_one_of_two_machines, args=(tmp_path / name, rendezvous)
        )
        for name in ("left", "right")
    ]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert [machine.exitcode for machine in machines] == [0, 0]
    models = [path.read_bytes() for path in tmp_path.rglob("model.safetensors")]
    assert models == 2 * [undisturbed.model.path.read_bytes()]


def test_a_machine_that_never_comes_is_missed(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    alone = {"nodes": 2, "rendezvous": rendezvous, "wait_minutes": 0.01}
    with pytest.raises(InputError, match="fewer than 2 machines"):
        run(tmp_path, distributed=alone)


def test_workers_stop_together_and_go_on(
    tmp_path: Path, undisturbed: TrainingReceipts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tracker = Tracker()
    tracker.attach(Once(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    slow = {"backbone": {"type": "tiny_training.TinyNetwork", "pause_seconds": 0.1}}
    with pytest.raises(Stopped):
        run(tmp_path, tracker, **TWO, **slow)
    names = [path.name for path in tmp_path.rglob("step_*")]
    assert names
    assert max(names) < "step_0000000016"


def test_a_worker_that_refuses_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake is told once and not started again until the restarts are used up."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    explosive = {"optimizer": {"type": "torch.optim.SGD", "lr": 1e30}, "clip_norm": None}
    with pytest.raises(InputError, match="not finite"):
        run(tmp_path, **TWO, **explosive, max_skipped_updates=2)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="rendezvous"):
        tiny_settings(distributed={"nodes": 2})
    with pytest.raises(InputError, match="host:port"):
        tiny_settings(distributed={"nodes": 2, "rendezvous": "somewhere"})
    with pytest.raises(InputError, match="one image"):
        tiny_settings(distributed={"workers": 9})
    with pytest.raises(InputError, match="distributed"):
        tiny_settings(distributed={"gpus": 2})
