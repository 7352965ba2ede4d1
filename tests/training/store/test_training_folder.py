"""Nothing that happens to a save harms the checkpoints that were there before it."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.store import training_folder
from ddpm_kedro.training.store.checkpoint import FACTS_NAME, TENSORS_NAME
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.store.fingerprint import fingerprint
from ddpm_kedro.training.store.training_folder import TrainingFolder

SOURCE = Path(__file__).parents[3] / "src"
SHAPING = {"optimizer": {"lr": 0.1}, "seed": 0}


def opened(path, **arguments):
    return CheckpointStore(path / "store").open(SHAPING, {}, 1000, **arguments)


def save(folder, step, size=4, **facts):
    tensors = {"weight": torch.full((size,), float(step))}
    folder.save(tensors, {"step": step, **facts}, step=step, images_seen=10 * step)


def steps(folder):
    return sorted(int(path.name[5:15]) for path in folder.checkpoints_path.glob("step_*"))


def parameters(checkpoint):
    """With what a checkpoint was trained: for a person to read."""
    return json.loads((checkpoint.path / FACTS_NAME).read_text())["parameters"]


def is_whole(checkpoint):
    weight = checkpoint.tensors["weight"]
    return checkpoint.facts["step"] == checkpoint.step and bool((weight == checkpoint.step).all())


def test_the_newest_is_the_latest_and_carries_its_parameters(tmp_path):
    store = CheckpointStore(tmp_path)
    with store.open(SHAPING, {"device": "cpu"}, 1000) as folder:
        assert folder.latest() is None
        for step in (1, 2):
            save(folder, step)
        folder.wait()
        checkpoint = folder.latest()
        assert (checkpoint.step, checkpoint.images_seen) == (2, 20)
        assert is_whole(checkpoint)
        assert parameters(checkpoint) == {"shaping": SHAPING, "recorded": {"device": "cpu"}}


def test_saving_takes_a_snapshot(tmp_path):
    with opened(tmp_path) as folder:
        weight = torch.full((1000,), 1.0)
        facts = {"step": 1, "nested": {"list": [1]}}
        folder.save({"weight": weight}, facts, step=1, images_seen=10)
        weight.zero_()
        facts["nested"]["list"].append(2)
        folder.wait()
        assert is_whole(folder.latest())
        assert folder.latest().facts["nested"] == {"list": [1]}


def test_saving_returns_before_the_disk_and_a_second_save_waits(tmp_path, monkeypatch):
    may_write = threading.Event()
    write_checkpoint = training_folder.write_checkpoint

    def slow(*arguments):
        assert may_write.wait(60)
        write_checkpoint(*arguments)

    monkeypatch.setattr(training_folder, "write_checkpoint", slow)
    with opened(tmp_path) as folder:
        save(folder, 1)
        assert steps(folder) == []
        second = threading.Thread(target=save, args=(folder, 2))
        second.start()
        assert steps(folder) == []
        may_write.set()
        second.join()
        assert 1 in steps(folder)
    assert steps(folder) == [1, 2]


@pytest.mark.parametrize(
    ("settled_images", "kept"), [(None, [7, 8]), (0, [7, 8]), (45, [4, 7, 8]), (50, [5, 7, 8])]
)
def test_the_last_k_and_the_newest_settled_one_stay(tmp_path, settled_images, kept):
    with opened(tmp_path, keep_checkpoints=2, settled_images=settled_images) as folder:
        for step in range(1, 9):
            save(folder, step)
        folder.wait()
        assert steps(folder) == kept
        assert folder.latest().step == 8


def test_saving_twice_at_one_step_keeps_the_second(tmp_path):
    with opened(tmp_path) as folder:
        for attempt in (1, 2):
            save(folder, 3, attempt=attempt)
        folder.wait()
        assert len(list(folder.checkpoints_path.iterdir())) == 1
        assert folder.latest().facts["attempt"] == 2


def truncate(path):
    data = (path / TENSORS_NAME).read_bytes()
    (path / TENSORS_NAME).write_bytes(data[:-1])


def flip(path):
    data = bytearray((path / TENSORS_NAME).read_bytes())
    data[-1] ^= 1
    (path / TENSORS_NAME).write_bytes(data)


def tear(path):
    (path / FACTS_NAME).unlink()


def make_foreign(path):
    facts = json.loads((path / FACTS_NAME).read_text())
    (path / FACTS_NAME).write_text(json.dumps({**facts, "format": "somebody's"}))


DAMAGES = {
    truncate: "bytes, not",
    flip: "does not match its checksum",
    tear: f"{FACTS_NAME} is missing",
    make_foreign: "another format",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog, damage):
    with opened(tmp_path) as folder:
        for step in (1, 2, 3):
            save(folder, step)
    newest = folder.checkpoints_path / "step_0000000003"
    damage(newest)
    with caplog.at_level(logging.WARNING), opened(tmp_path) as folder:
        assert folder.status == "resumes"
        checkpoint = folder.latest()
        assert checkpoint.step == 2
        assert is_whole(checkpoint)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith(f"{newest}: checkpoint skipped, ")
    assert DAMAGES[damage] in messages[0]


def test_going_on_from_before_a_damaged_one_replaces_it_and_loses_nothing_whole(tmp_path):
    with opened(tmp_path, keep_checkpoints=2) as folder:
        for step in (1, 2, 3):
            save(folder, step)
    flip(folder.checkpoints_path / "step_0000000003")
    with opened(tmp_path, keep_checkpoints=2) as folder:
        assert folder.latest().step == 2
        save(folder, 3)
        folder.wait()
        assert steps(folder) == [2, 3]
        assert is_whole(folder.latest())
        assert folder.latest().step == 3


def test_damaged_ones_of_later_steps_do_not_push_out_whole_ones(tmp_path):
    with opened(tmp_path, keep_checkpoints=3) as folder:
        for step in (10, 20, 30):
            save(folder, step)
    for step in (20, 30):
        flip(folder.checkpoints_path / f"step_{step:010d}")
    with opened(tmp_path, keep_checkpoints=2) as folder:
        assert folder.latest().step == 10
        save(folder, 15)
        folder.wait()
        assert steps(folder) == [10, 15]


def test_all_damaged_means_from_the_start(tmp_path, caplog):
    with opened(tmp_path) as folder:
        save(folder, 1)
    tear(folder.checkpoints_path / "step_0000000001")
    with opened(tmp_path) as folder:
        assert folder.status == "new"
        assert folder.latest() is None
    assert "checkpoint skipped" in caplog.text


def test_strange_files_are_named_and_left_alone(tmp_path, caplog):
    with opened(tmp_path) as folder:
        save(folder, 1)
        folder.wait()
        stranger = folder.checkpoints_path / "model.pt"
        stranger.write_bytes(b"PK")
        assert folder.latest().step == 1
        save(folder, 2)
    assert f"{stranger}: skipped, not a checkpoint of this program" in caplog.text
    assert stranger.read_bytes() == b"PK"


def test_what_cannot_be_saved_is_refused_in_the_caller(tmp_path):
    with opened(tmp_path) as folder:
        with pytest.raises(TypeError, match="weight"):
            folder.save({"weight": torch.zeros(1, device="meta")}, {}, step=1, images_seen=1)
        with pytest.raises(TypeError):
            folder.save({}, {"object": object()}, step=1, images_seen=1)
        save(folder, 1)
        folder.wait()
        assert steps(folder) == [1]


def test_an_error_at_any_point_of_a_save_is_one_line_and_harms_nothing(tmp_path, monkeypatch):
    """Each system call of the writer fails once, as on a full or dying disk."""
    countdown = 0

    def failing(call):
        def wrapped(*arguments, **options):
            nonlocal countdown
            if threading.current_thread() is not threading.main_thread():
                countdown -= 1
                if countdown == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return wrapped

    with opened(tmp_path, keep_checkpoints=1) as folder:
        save(folder, 1)
        folder.wait()
        for name in ("mkdir", "open", "write", "fsync", "rename"):
            monkeypatch.setattr(os, name, failing(getattr(os, name)))
        whole, messages = 1, []
        for attempt in range(1, 100):
            countdown = attempt
            save(folder, whole + 1)
            try:
                folder.wait()
            except InputError as error:
                messages.append(str(error))
            written = folder.latest().step
            assert written in (whole, whole + 1)
            assert is_whole(folder.latest())
            whole = written
            if countdown > 0:
                break
        assert not list(folder.checkpoints_path.glob(".aside-*/step_*"))
    assert attempt > 8
    pattern = (
        r"the checkpoint at step \d+ could not be written to \S+/checkpoints: "
        r"No space left on device; the newest one there is step_\d{10}"
    )
    assert len(messages) > 5
    assert all(re.fullmatch(pattern, message) for message in messages)


def test_an_error_comes_out_at_the_next_save_too_and_only_once(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as folder:
        with monkeypatch.context() as patch:
            patch.setattr(training_folder, "write_checkpoint", full)
            save(folder, 1)
            with pytest.raises(InputError, match="step 1 could not be written"):
                save(folder, 2)
        save(folder, 3)
        folder.wait()
        assert steps(folder) == [3]


def test_leaving_reports_a_failed_save_unless_another_error_is_on_its_way(
    tmp_path, monkeypatch, caplog
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_folder, "write_checkpoint", full)
    with pytest.raises(InputError, match="No space left"), opened(tmp_path) as folder:
        save(folder, 1)

    def interrupted():
        with opened(tmp_path) as folder:
            save(folder, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "No space left" in caplog.text
    opened(tmp_path).close()  # the lock was given back both times


def test_a_mistake_of_the_program_in_the_writer_is_not_hidden(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(training_folder, "write_checkpoint", broken)
    with pytest.raises(ZeroDivisionError), opened(tmp_path) as folder:
        save(folder, 1)


def run(script, *arguments):
    """Run ``script`` in a process of its own and give back the JSON that it prints."""
    prelude = f"""
        import json, os, resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(SOURCE)!r})
        import torch
        import safetensors.torch
        import numpy.ctypeslib  # by safetensors, late: an ordinary user may not look there
        from ddpm_kedro.errors import InputError
        from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
        from ddpm_kedro.training.store.training_folder import TrainingFolder
        SHAPING = {SHAPING!r}
        def save(folder, step, size=4):
            tensors = {{"weight": torch.full((size,), float(step))}}
            folder.save(tensors, {{"step": step}}, step=step, images_seen=10 * step)
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_run_killed_at_any_system_call_loses_no_whole_checkpoint(tmp_path):
    """SIGKILL before each call that touches the disk, from opening the store to the final model."""
    report = run(
        """
        from ddpm_kedro.files import atomic_write
        from ddpm_kedro.training.store import checkpoint
        CALLS = ["open", "pwrite", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"]
        store = CheckpointStore(sys.argv[1])

        def session(step):
            with store.open(SHAPING, {"step": step}, 10 * step, keep_checkpoints=1) as folder:
                save(folder, step)
                folder.wait()
                with atomic_write(folder.model_path) as file:
                    file.write(b"model %d" % step)
                folder.finished(10 * step)

        def killing(module, name, countdown, tell):
            call = getattr(module, name)
            def wrapped(*arguments, **options):
                countdown[0] -= 1
                if countdown[0] == 0:
                    if name == "save_file":  # in the middle of the tensors
                        Path(arguments[1]).write_bytes(b"half")
                    os.write(tell, name.encode())
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)
            setattr(module, name, wrapped)

        import logging
        import logging.handlers
        warnings = logging.handlers.BufferingHandler(1000)
        warnings.setLevel(logging.WARNING)
        logging.getLogger().addHandler(warnings)
        session(1)
        whole, report = 1, []
        for at in range(1, 1000):
            heard, tell = os.pipe()
            child = os.fork()
            if child == 0:
                countdown = [at]
                for name in CALLS:
                    killing(os, name, countdown, tell)
                killing(checkpoint, "save_file", countdown, tell)
                session(whole + 1)
                os._exit(0)
            os.close(tell)
            call = os.read(heard, 100).decode()
            os.close(heard)
            killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
            with store.open(SHAPING, {}, 10 * (whole + 1)) as folder:
                left = [str(p) for p in Path(sys.argv[1]).rglob(".aside-*")]
                best = folder.latest()
                fine = best.facts["step"] == best.step
                fine = fine and bool((best.tensors["weight"] == best.step).all())
                fine = fine and best.step in (whole, whole + 1)
                for path in folder.checkpoints_path.glob("step_*"):
                    fine = fine and len(list(path.iterdir())) == 2  # none is half removed
                report.append([call, folder.status, best.step - whole, fine, left])
                whole = best.step
            if not killed:
                break
        said = [record.getMessage() for record in warnings.buffer]
        print(json.dumps({"killed": killed, "report": report, "warnings": said}))
        """,
        tmp_path / "store",
    )
    assert not report["killed"]
    assert report["warnings"] == []  # nothing was ever taken for a damaged one
    calls = {call for call, *_ in report["report"][:-1]}
    in_os = {"open", "pwrite", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"}
    assert calls == in_os | {"save_file"}
    assert all(fine and not left for _, _, _, fine, left in report["report"])
    assert {status for _, status, *_ in report["report"]} == {"goes on", "resumes", "done"}
    assert report["report"][0][2] == 0  # killed at the very start: the old one
    assert report["report"][-1][1] == "done"  # never killed


def test_a_full_disk(tmp_path):
    """The limit on file sizes makes write(2) fail in the middle of the tensors."""
    report = run(
        """
        with CheckpointStore(sys.argv[1]).open(SHAPING, {}, 100) as folder:
            save(folder, 1)
            folder.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 1 << 40))
            save(folder, 2, size=1_000_000)
            try:
                folder.wait()
                message = None
            except InputError as error:
                message = str(error)
            left = [path.name for path in folder.checkpoints_path.iterdir()]
            survived = folder.latest().step
            save(folder, 3)
            folder.wait()
            print(json.dumps([message, left, survived, folder.latest().step]))
        """,
        tmp_path / "store",
    )
    message, left, survived, after = report
    assert message == (
        f"the checkpoint at step 2 could not be written to {tmp_path}/store/"
        f"{fingerprint(SHAPING)}/checkpoints: File too large; "
        "the newest one there is step_0000000001"
    )
    assert left == ["step_0000000001"]
    assert (survived, after) == (1, 3)


def test_a_read_only_folder_as_an_ordinary_user():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chmod(folder, 0o777)
        messages, survived = run(
            """
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            root = Path(sys.argv[1])
            messages = []
            def attempt(work):
                try:
                    work()
                    messages.append(None)
                except InputError as error:
                    messages.append(str(error))

            (root / "closed").mkdir()
            (root / "closed").chmod(0o555)
            attempt(lambda: CheckpointStore(root / "closed").open(SHAPING, {}, 100))
            attempt(lambda: CheckpointStore(root / "closed" / "store").open(SHAPING, {}, 100))
            with CheckpointStore(root / "store").open(SHAPING, {}, 100) as folder:
                save(folder, 1)
                folder.wait()
                folder.checkpoints_path.chmod(0o555)
                save(folder, 2)
                attempt(folder.wait)
                folder.path.chmod(0o555)
            attempt(lambda: CheckpointStore(root / "store").open(SHAPING, {}, 100))
            survived = TrainingFolder(folder.path).latest().step
            folder.path.chmod(0o755)
            folder.checkpoints_path.chmod(0o755)
            print(json.dumps([messages, survived]))
            """,
            folder,
        )
    root = Path(folder)
    where = "checkpoints cannot be kept here (Permission denied); choose a data_root"
    assert messages[0].startswith(f"{root / 'closed' / 'lock'}: {where}")
    assert messages[1].startswith(f"{root / 'closed' / 'store'}: {where}")
    assert "Permission denied; the newest one there is step_0000000001" in messages[2]
    assert where in messages[3]
    assert survived == 1


def test_a_worker_attaches_without_the_lock_and_saves(tmp_path):
    with opened(tmp_path) as folder:
        worker = TrainingFolder(folder.path, keep_checkpoints=1)
        assert worker.status == "attached"
        with worker:
            for step in (1, 2):
                save(worker, step)
        assert steps(folder) == [2]
        assert parameters(folder.latest()) == {"shaping": SHAPING, "recorded": {}}
        with pytest.raises(InputError, match="in use"):  # the worker did not give the lock back
            opened(tmp_path)


def test_attaching_to_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="the training folder was changed"):
        TrainingFolder(tmp_path).latest()


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="keep_checkpoints=0"):
        opened(tmp_path, keep_checkpoints=0)
    opened(tmp_path).close()


def test_finishing_without_a_model_is_refused(tmp_path):
    with opened(tmp_path) as folder, pytest.raises(FileNotFoundError):
        folder.finished(10)


def test_an_end_that_cannot_be_noted_is_reported(tmp_path):
    with opened(tmp_path) as folder:
        folder.model_path.write_bytes(b"model")
        (folder.path / "training.json").unlink()
        with pytest.raises(InputError, match="the end of training cannot be noted"):
            folder.finished(10)
