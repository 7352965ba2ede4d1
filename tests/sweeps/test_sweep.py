"""A sweep to its end: what fails is recorded, what was killed goes on, the better half goes on."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import fakes
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.locks import FileLock
from ddpm_kedro.sweeps import sweep

command = importlib.import_module("ddpm_kedro.commands.sweep")
LR = "training.optimizer.lr"


def starts(folder: Path) -> list[str]:
    """The budgets of a trial's runs."""
    path = folder / "starts.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def table(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "table.csv").read_bytes(), (folder / "table.json").read_bytes()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def test_a_failing_trial_is_recorded_and_the_rest_go_on(run, folder):
    rows = run(over={LR: [0.1, 0.2]}, trials=[{"seed": 1}, {}])
    assert [row.rank for row in rows.values()] == [1, 2, None, None]
    assert list(rows)[:2] == ["lr=0.2", "lr=0.1"]
    assert rows["seed=1,lr=0.1"].note == "failed: the losses have no finite value"
    assert "INFO    training" in (folder / "seed=1,lr=0.1/log.txt").read_text()


def test_a_run_without_scores_is_a_failure(run):
    (row,) = run(over={"seed": [3]}).values()
    assert row.state == "failed"
    assert row.note.startswith("failed: no metrics.json was written")


def test_the_result_does_not_depend_on_how_many_run_at_a_time(run, folder):
    tables = []
    for workers in (1, 3):
        run(over={LR: [0.1, 0.2, 0.4]}, workers=workers)
        tables.append(table(folder))
    assert tables[0] == tables[1]


def test_several_workers_run_at_the_same_time(run, folder):
    """The first trial waits for what the second one writes."""
    first, second = folder / "seed=2", folder / "seed=4"
    first.mkdir(parents=True)
    (first / "go.txt").symlink_to(second / "08_reporting/metrics.json")
    rows = run(over={"seed": [2, 4]}, workers=2)
    assert [row.state for row in rows.values()] == ["finished"] * 2


def test_a_sweep_that_another_process_is_at_is_refused(run, folder):
    folder = folder
    folder.mkdir()
    with FileLock(folder / ".sweep.lock"), pytest.raises(InputError, match="in use by"):
        run(over={"seed": [0]})


def test_a_folder_that_cannot_be_written_is_one_line(run, folder):
    folder.write_text("in the way")
    with pytest.raises(InputError, match="a sweep cannot be kept here"):
        run(over={"seed": [0]})


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_sweep_goes_on_and_waits_for_trials_that_are_ending(run, folder, caplog):
    environ = {**os.environ, "PYTHONPATH": str(fakes.PROJECT / "src")}
    words = [sys.executable, fakes.__file__, str(folder)]
    killed = subprocess.Popen(words, cwd=fakes.PROJECT, env=environ)
    trial = folder / "seed=2"
    wait_for(trial / "waits.json")
    (trial / "saving.txt").touch()
    killed.kill()
    killed.wait()
    (trial / "go.txt").touch()

    def save() -> None:
        """Once the sweep waits for that, or never would."""
        while "at this trial; waiting for it" not in caplog.text and not over.is_set():
            time.sleep(0.02)
        (trial / "saving.txt").unlink()

    over = threading.Event()
    threading.Thread(target=save, daemon=True).start()
    with caplog.at_level("INFO"):
        rows = run(**fakes.SEEDS)
    over.set()
    wait_for(trial / "saved.json")
    assert [row.state for row in rows.values()] == ["finished"] * 3
    saved = json.loads((trial / "saved.json").read_text())
    again = (trial / "starts.txt").read_text().split()[-1]
    assert float(again) > saved, "a trial was begun again before it had ended"


def test_a_stopped_sweep_lets_its_trials_save(plan, folder, monkeypatch, capsys):
    def stop() -> None:
        wait_for(folder / "seed=2/waits.json")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweep, "carry_out", partial(sweep.carry_out, command=fakes.FAKE_RUN))
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(SystemExit) as ended, command.signals_stop():
        command._carry_out(plan(**fakes.SEEDS))
    thread.join()
    assert ended.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert (folder / "seed=2/saved.json").exists()
    assert not (folder / "seed=4").exists()


class TestHalving:
    def test_the_better_half_goes_on_with_its_training(self, run, folder):
        rows = run(over={LR: [0.1, 0.2, 0.3, 0.4, 0.6]}, halving=0.16)
        assert list(rows) == ["lr=0.3", "lr=0.2", "lr=0.4", "lr=0.1", "lr=0.6"]
        assert [row.budget_kimg for row in rows.values()] == [0.64, 0.64, 0.32, 0.16, 0.16]
        assert starts(folder / "lr=0.3") == ["0.16", "0.32", "0.64"]
        assert rows["lr=0.1"].note == "not trained further"

    def test_a_rung_that_is_done_is_found_as_later_ones_replace_its_files(self, run, folder):
        tree = {"over": {LR: [0.1, 0.3]}, "halving": 0.32}
        first = run(**tree)
        once = table(folder)
        assert run(**tree) == first
        assert table(folder) == once
        assert starts(folder / "lr=0.1") == ["0.32"]
        assert starts(folder / "lr=0.3") == ["0.32", "0.64", "0.64"]

    def test_of_equal_trials_the_first_goes_on_whichever_ends_first(self, run, folder):
        tree = {"over": {"seed": [0, 4]}, "halving": 0.32}
        run(**tree)
        shutil.rmtree(folder / "seed=4")
        run(**tree)
        assert starts(folder / "seed=4") == ["0.32"]

    @pytest.mark.parametrize("earlier", [{}, {"halving": 0.32, "params": {"sampling.seed": 7}}])
    def test_a_model_of_a_higher_budget_is_not_taken_for_a_rungs(self, run, folder, earlier):
        run(over={LR: [0.3]}, **earlier)
        with pytest.raises(InputError, match="holds a model of 640 images, and this rung's would"):
            run(over={LR: [0.3]}, halving=0.32)
        assert len(starts(folder / "lr=0.3")) == 1 + len(earlier) // 2

    def test_only_scores_of_a_stamp_are_compared(self, run):
        """Of each stamp the better half goes on."""
        rows = run(over={"evaluation.seed": [1, 2], LR: [0.1, 0.3]}, halving=0.32)
        went_on = {name for name, row in rows.items() if row.budget_kimg == 0.64}
        assert went_on == {"seed=1,lr=0.3", "seed=2,lr=0.3"}

    @pytest.mark.parametrize(("lr_schedule", "is_said"), [("cosine", True), ("wsd", False)])
    def test_trials_that_start_over_are_said_before(self, run, caplog, lr_schedule, is_said):
        with caplog.at_level("INFO"):
            run(over={"seed": [0, 4]}, halving=0.32, params={"lr_schedule": lr_schedule})
        assert ("each rung trains seed=0 from the start" in caplog.text) is is_said
        assert ("(2 of 2 trials)" in caplog.text) is is_said

    @pytest.mark.parametrize(
        ("tree", "words"),
        [
            ({"halving": 0.64}, "the first rung's budget has to lie below training.budget_kimg"),
            (
                {"halving": 0.1, "over": {"training.budget_kimg": [0.4, 0.8]}},
                "raises training.budget_kimg, which the trials vary",
            ),
        ],
    )
    def test_budgets_that_make_no_rungs_are_refused(self, run, folder, tree, words):
        with pytest.raises(InputError, match=f"sweep mine: halving=.*{words}"):
            run(**{"over": {"seed": [0, 4]}, **tree})
        assert not list(folder.parent.iterdir())
