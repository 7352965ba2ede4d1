"""The store finds the training that a run means, says what it does, and has one holder."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.training.store import checkpoint_store
from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
from ddpm_kedro.training.store.fingerprint import fingerprint
from ddpm_kedro.training.store.record import TrainingRecord
from ddpm_kedro.training.store.training_folder import TrainingFolder

SOURCE = Path(__file__).parents[3] / "src"
ADAM = {"optimizer": {"type": "torch.optim.Adam", "lr": 0.002}, "seed": 0}
SGD = {"optimizer": {"type": "torch.optim.SGD", "lr": 0.1}, "seed": 0}
read = TrainingRecord.read


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every opening is one second after the one before it."""
    times = iter(range(1000, 10000))
    monkeypatch.setattr(checkpoint_store.time, "time", lambda: float(next(times)))


def save(folder, images_seen):
    folder.save({"weight": torch.zeros(3)}, {}, step=images_seen // 10, images_seen=images_seen)
    folder.wait()


def finish(folder, images_seen, content=b"model"):
    save(folder, images_seen)
    folder.model_path.write_bytes(content)
    folder.finished(images_seen)


def opened(store, shaping=ADAM, budget=100, recorded=None, **arguments):
    with store.open(shaping, recorded or {}, budget, **arguments) as folder:
        return folder


def trained(store, shaping=ADAM, images_seen=100, content=b"model"):
    with store.open(shaping, {}, images_seen) as folder:
        finish(folder, images_seen, content)
        return folder


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "deep" / "store")


def test_a_new_training_lies_under_its_fingerprint(store):
    folder = opened(store)
    assert folder.status == "new"
    assert folder.path == store.path / fingerprint(ADAM)
    assert folder.previews_path.is_dir()
    assert folder.summary == f"training {fingerprint(ADAM)} is new: 0 of 100 images"
    state = TrainingRecord.read(folder.path)
    assert state.shaping == ADAM
    assert state.model_images_seen is None


def test_making_a_store_touches_nothing(store):
    assert not store.path.exists()


def test_an_interrupted_training_resumes(store, caplog):
    with store.open(ADAM, {}, 100) as folder:
        save(folder, 40)
    with caplog.at_level(logging.INFO):
        folder = opened(store)
    assert folder.status == "resumes"
    assert not folder.is_done
    assert folder.latest().images_seen == 40
    line = f"training {fingerprint(ADAM)} resumes at step 4, 40 of 100 images"
    assert [record.getMessage() for record in caplog.records] == [line]


def test_a_finished_training_is_done(store):
    trained(store)
    folder = opened(store)
    assert folder.is_done
    assert folder.summary.endswith("is already done: 100 images seen")
    assert folder.model_path.read_bytes() == b"model"


def test_a_lower_budget_than_reached_says_so_and_is_done(store):
    trained(store)
    folder = opened(store, budget=50)
    assert folder.is_done
    assert folder.summary.endswith("is already done: 100 images seen, more than the budget of 50")


def test_a_lower_budget_than_an_unfinished_training_reached_only_needs_its_model(store):
    with store.open(ADAM, {}, 100) as folder:
        save(folder, 80)
    folder = opened(store, budget=50)
    assert folder.status == "resumes"
    assert "80 of 50 images: the budget is reached, only the model is left to write" in (
        folder.summary
    )


def test_a_higher_budget_goes_on(store):
    trained(store)
    folder = opened(store, budget=300)
    assert folder.status == "goes on"
    assert folder.latest().images_seen == 100
    assert folder.summary.endswith(
        "goes on at step 10, 100 of 300 images: a higher budget than the 100 before"
    )


@pytest.mark.parametrize("damage", [b"", b"modem", None])
def test_a_damaged_model_is_not_taken_for_done(store, damage):
    folder = trained(store)
    if damage is None:
        folder.model_path.unlink()
    else:
        folder.model_path.write_bytes(damage)
    folder = opened(store)
    assert folder.status == "resumes"
    assert "only the model is left to write" in folder.summary


def test_a_model_written_before_the_budget_was_reached_is_not_done(store):
    """As when ``max_minutes`` ended the run."""
    with store.open(ADAM, {}, 100) as folder:
        finish(folder, 40)
    folder = opened(store)
    assert folder.status == "resumes"
    assert folder.summary.endswith("resumes at step 4, 40 of 100 images")


def test_a_budget_rounded_up_to_whole_steps_is_not_called_more_than_asked(store):
    with store.open(ADAM, {}, 95) as folder:
        finish(folder, 100)
    assert opened(store, budget=95).summary.endswith("is already done: 100 images seen")
    assert "more than the budget of 50" in opened(store, budget=50).summary
    assert "more than the budget of 50" in opened(store, budget=50).summary  # still


def test_another_choice_starts_beside_and_going_back_finds_the_first(store):
    first = trained(store)
    second = opened(store, SGD)
    assert second.status == "new"
    assert second.path != first.path
    assert second.summary.endswith(
        f"against {fingerprint(ADAM)}, the nearest earlier one: optimizer.lr: 0.002 -> 0.1, "
        "optimizer.type: torch.optim.Adam -> torch.optim.SGD"
    )
    assert opened(store).is_done


def test_the_nearest_earlier_one_has_the_fewest_differences_then_the_latest_use(store):
    near = {**ADAM, "seed": 1}
    for shaping in ({**ADAM, "seed": 2}, near, SGD):
        opened(store, shaping)
    folder = opened(store, ADAM)
    assert f"against {fingerprint(near)}, the nearest earlier one: seed: 1 -> 0" in folder.summary


def test_many_differences_are_cut_short(store):
    opened(store, {f"a{i}": 0 for i in range(12)})
    summary = opened(store, {f"a{i}": 1 for i in range(12)}).summary
    assert summary.endswith("a0: 0 -> 1, a1: 0 -> 1, a10: 0 -> 1, a11: 0 -> 1, a2: 0 -> 1, "
                            "a3: 0 -> 1, a4: 0 -> 1, a5: 0 -> 1 and 4 more")  # fmt: skip


def test_what_is_only_recorded_is_a_notice_and_no_other_training(store):
    with store.open(ADAM, {"device": "cpu", "versions": {"torch": "2.11"}}, 100) as folder:
        save(folder, 40)
    later = {"device": "cuda", "versions": {"torch": "2.11"}}
    folder = opened(store, recorded=later)
    assert folder.status == "resumes"
    assert folder.summary.endswith("; changed since: device: cpu -> cuda")
    assert "changed" not in opened(store, recorded=later).summary


def test_restart_starts_over_and_keeps_the_old_until_the_new_is_finished(store):
    trained(store, content=b"old")
    aside = store.path / f"{fingerprint(ADAM)}.replaced"
    with store.open(ADAM, {}, 100, restart=True) as folder:
        assert folder.status == "new"
        assert folder.latest() is None
        assert not folder.model_path.exists()
        assert f"the earlier one is kept as {aside.name} until it finishes" in folder.summary
        assert (aside / "model.safetensors").read_bytes() == b"old"
        finish(folder, 100, b"new")
        assert not aside.exists()
    assert opened(store).model_path.read_bytes() == b"new"


def test_restarting_twice_keeps_one_old_folder_and_restarting_nothing_is_new(store):
    opened(store, restart=True)
    assert not list(store.path.glob("*.replaced"))
    for _ in range(2):
        opened(store, restart=True)
    assert len(list(store.path.glob("*.replaced"))) == 1


def checkpoints(folder):
    return sorted(path.name for path in folder.checkpoints_path.glob("step_*"))


def test_nine_trainings_and_back_to_the_first(store):
    folders = [trained(store, {"seed": seed}, content=b"%d" % seed) for seed in range(9)]
    first = opened(store, {"seed": 0})
    assert first.is_done
    assert all(folder.model_path.read_bytes() == b"%d" % n for n, folder in enumerate(folders))
    assert all(checkpoints(folder) for folder in folders)


def test_checkpoints_of_finished_trainings_go_and_nothing_else(store, caplog):
    with store.open({"seed": 9}, {}, 100) as unfinished:
        save(unfinished, 40)
    with store.open({"seed": 8}, {}, 100) as out_of_time:
        finish(out_of_time, 40)
    folders = [trained(store, {"seed": seed}) for seed in range(4)]
    preview = folders[0].previews_path / "preview_000000000100.png"
    preview.touch()
    folders[0].log_path.touch()
    with caplog.at_level(logging.INFO):
        opened(store, {"seed": 3}, keep_trainings=2)
    assert [bool(checkpoints(folder)) for folder in folders] == [False, False, True, True]
    assert checkpoints(unfinished)
    assert checkpoints(out_of_time)
    assert all(folder.model_path.read_bytes() == b"model" for folder in folders)
    assert preview.exists()
    assert folders[0].log_path.exists()
    lines = [r.getMessage() for r in caplog.records if "keep_trainings" in r.getMessage()]
    assert len(lines) == 1
    assert all(folder.fingerprint in lines[0] for folder in folders[:2])
    caplog.clear()
    with caplog.at_level(logging.INFO):  # nothing is left to remove, so nothing is said
        assert opened(store, {"seed": 0}, keep_trainings=4).is_done
    assert "keep_trainings" not in caplog.text


def test_a_higher_budget_without_checkpoints_says_that_it_starts_afresh(store):
    trained(store)
    opened(store, SGD, keep_trainings=1)
    folder = opened(store, budget=300)
    assert folder.status == "new"
    assert "no checkpoint is left of the 100 images before" in folder.summary
    assert folder.summary.endswith("so it starts afresh")


def settled_training(store):
    """To a budget of 100 whose rate falls from 80 on, with a checkpoint at every 10 images."""
    with store.open(ADAM, {}, 100, settled_images=80, keep_checkpoints=2) as folder:
        for images_seen in range(10, 100, 10):
            save(folder, images_seen)
        (folder.previews_path / "preview_000000000100.png").touch()
        finish(folder, 100)
        return folder


def test_a_higher_budget_goes_on_from_before_the_rate_fell(store):
    settled_training(store)
    folder = opened(store, budget=200, settled_images=160)
    assert folder.status == "goes on"
    assert folder.summary.endswith(
        "goes on at step 8, 80 of 200 images: a higher budget than the 100 before, whose rate "
        "began to fall there"
    )
    assert not list(folder.previews_path.iterdir())
    assert TrainingFolder(folder.path).latest().images_seen == 80  # what a worker finds
    again = opened(store, budget=200, settled_images=160)  # as after a kill before the first save
    assert (again.status, again.latest().images_seen) == ("resumes", 80)
    assert opened(store, budget=100, settled_images=80).is_done  # and the lower one still stands


def test_going_on_from_before_a_damaged_one_is_not_blamed_on_the_rate(store):
    trained(store)
    with store.open(ADAM, {}, 200) as folder:
        save(folder, 150)
        finish(folder, 200)
    (folder.checkpoints_path / "step_0000000020" / "tensors.safetensors").write_bytes(b"")
    summary = opened(store, budget=300).summary
    assert summary.endswith(
        "goes on at step 15, 150 of 300 images: a higher budget than the 200 before"
    )


def test_a_lower_budget_never_goes_on_from_where_it_would_not_have_been(store):
    with store.open(ADAM, {}, 100, settled_images=80, keep_checkpoints=2) as folder:
        for images_seen in (40, 50, 60):
            save(folder, images_seen)
    with pytest.raises(InputError, match=r"60 images, past where .* of 50 begins to fall"):
        opened(store, budget=50, settled_images=40)
    assert checkpoints(folder) == ["step_0000000005", "step_0000000006"]
    assert opened(store, budget=62, settled_images=50).latest().images_seen == 50
    assert opened(store, budget=100, settled_images=80).latest().images_seen == 60


def test_checkpoints_from_before_budgets_were_noted_go_on(store, monkeypatch):
    with store.open(ADAM, {}, 100) as folder, monkeypatch.context() as patch:
        patch.setattr(TrainingRecord, "read", lambda path: replace(read(path), asked_images=None,
                                                                  settled_images=None))  # fmt: skip
        finish(folder, 100)
    folder = opened(store, budget=300)
    assert (folder.status, folder.latest().images_seen) == ("goes on", 100)


def test_another_budget_alone_as_the_reason_says_what_would_go_on(store):
    def stretched(budget):
        return {"lr_schedule": {"type": "Cosine", "budget_images": budget}, "seed": 0}

    trained(store, stretched(100))
    summary = opened(store, stretched(200), 200).summary
    assert summary.endswith("under lr_schedule=wsd or constant a higher one goes on")
    assert "wsd" not in opened(store, {**stretched(200), "seed": 1}, 200).summary


def test_keeping_no_training_is_refused(store):
    with pytest.raises(InputError, match="keep_trainings=0"):
        opened(store, keep_trainings=0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"shaping": 1}', b'{"x": 1}'])
def test_a_damaged_state_is_named_and_written_anew(store, caplog, content):
    with store.open(ADAM, {}, 100) as folder:
        save(folder, 40)
    path = folder.path / "training.json"
    path.write_bytes(content)
    folder = opened(store)
    assert folder.status == "resumes"
    assert f"{path}: damaged" in caplog.text
    assert TrainingRecord.read(folder.path).shaping == ADAM


def test_a_state_that_was_removed_while_training_is_reported(store):
    with store.open(ADAM, {}, 100) as folder:
        (folder.path / "training.json").unlink()
        with pytest.raises(InputError, match="the training folder was changed"):
            save(folder, 10)


def test_a_second_opening_in_the_same_process_is_refused(store):
    with store.open(ADAM, {}, 100):
        with pytest.raises(InputError, match=r"in use by this very process"):
            store.open(SGD, {}, 100)
        assert not (store.path / fingerprint(SGD)).exists()
    opened(store, SGD)


def test_a_refused_opening_gives_the_lock_back(store):
    with pytest.raises(InputError, match="keep_checkpoints"):
        store.open(ADAM, {}, 100, keep_checkpoints=0)
    opened(store)


def test_a_value_that_cannot_be_recorded_is_refused_before_anything_is_written(store):
    with pytest.raises(InputError, match="backbone: object cannot be recorded"):
        store.open({"backbone": object()}, {}, 100)
    assert not store.path.exists()


HOLDER = f"""
    import json, os, sys
    sys.path.insert(0, {str(SOURCE)!r})
    from ddpm_kedro.training.store.checkpoint_store import CheckpointStore
    folder = CheckpointStore(sys.argv[1]).open({ADAM!r}, {{}}, 100)
    heard, told = os.pipe()
    child = os.fork()  # a helper process that outlives the holder
    if child == 0:
        os.write(told, b"x")
        sys.stdin.read()
        os._exit(0)
    os.read(heard, 1)
    print(json.dumps([os.getpid(), child]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.pids = json.loads(process.stdout.readline())
    yield process
    process.kill()
    process.stdin.close()  # the forked child ends with its input
    process.stdout.close()
    process.wait()


def test_a_second_process_is_refused_and_told_who_holds_the_store(store, holder):
    before = sorted(store.path.rglob("*"))
    with pytest.raises(InputError) as refusal:
        store.open(SGD, {}, 100)
    message = str(refusal.value)
    assert f"{store.path}: in use by process {holder.pids[0]} on {socket.gethostname()}" in message
    assert " since 20" in message
    assert "\n" not in message
    assert sorted(store.path.rglob("*")) == before


def test_a_killed_holder_blocks_nobody_even_if_its_child_lives(store, holder):
    os.kill(holder.pids[0], signal.SIGKILL)
    holder.wait()
    os.kill(holder.pids[1], 0)  # the child is there
    assert opened(store).status == "new"


def test_a_lock_file_left_behind_blocks_nobody(store):
    store.path.mkdir(parents=True)
    (store.path / "lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2020"}')
    assert opened(store).status == "new"


def test_a_holder_that_has_not_said_its_name_still_holds(store):
    with store.open(ADAM, {}, 100):
        (store.path / "lock").write_text("")
        with pytest.raises(InputError, match="another run"):
            store.open(ADAM, {}, 100)


def test_a_file_system_without_locks_is_named(store, monkeypatch):
    from ddpm_kedro import locks

    def unsupported(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with pytest.raises(InputError, match=r"cannot lock files \(No locks available\)"):
        store.open(ADAM, {}, 100)


def test_a_file_in_place_of_the_store_is_named(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(InputError, match="checkpoints cannot be kept here"):
        CheckpointStore(tmp_path / "store").open(ADAM, {}, 100)
