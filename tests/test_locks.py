"""One process holds a lock; another is refused or waits, and is told who holds it."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.locks import FileLock


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    with FileLock(tmp_path / "lock"):
        with pytest.raises(InputError, match=f"{tmp_path}: in use by this very process"):
            FileLock(tmp_path / "lock")
        with FileLock(tmp_path / "other"):
            pass
    lock = FileLock(tmp_path / "lock")
    lock.release()
    lock.release()  # does nothing
    FileLock(tmp_path / "lock").release()


def test_one_that_nobody_refers_to_is_given_back(tmp_path):
    lock = FileLock(tmp_path / "lock")
    del lock
    FileLock(tmp_path / "lock").release()


def test_a_second_holder_waits_and_says_for_what(tmp_path, caplog):
    order = []

    def second():
        with FileLock(tmp_path / "lock", work="drawing"):
            order.append("second")

    with caplog.at_level(logging.INFO), FileLock(tmp_path / "lock"):
        waiting = threading.Thread(target=second)
        waiting.start()
        while "drawing" not in caplog.text:
            pass
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"process {os.getpid()}" in line
    assert line.endswith("is drawing; waiting for it")


def test_a_lock_is_taken_on_a_full_disk(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with FileLock(tmp_path / "lock"), pytest.raises(InputError, match="another run"):
        FileLock(tmp_path / "lock")


def test_a_missing_folder_is_the_callers_to_name(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "lock")
