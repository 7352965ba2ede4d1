"""Finished preparations are found, unfinished ones never."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_kedro import content as content_module
from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.store import SPLIT_NAMES, ImageStore

KILLED = """
import os, signal, sys
from ddpm_kedro.images.store import ImageStore
def make(folder):
    (folder / "train_images.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
ImageStore(sys.argv[1]).find_or_make({"a": 1}, make)
"""


class Making:
    """Writes two small files and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.times += 1
        splits = {}
        for split, name in SPLIT_NAMES.items():
            content = f"{split} {self.times}".encode()
            (folder / name).write_bytes(content)
            facts = {"num_images": 3, "content_hash": split, "file_bytes": len(content)}
            splits[split] = facts
        return {"splits": splits}


def _visible(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]


def test_finished_work_is_found_again(tmp_path: Path) -> None:
    making = Making()
    first = ImageStore(tmp_path / "store").find_or_make({"a": 1, "b": [2]}, making)
    again = ImageStore(tmp_path / "store").find_or_make({"b": [2], "a": 1}, making)
    assert making.times == 1
    assert again == first
    assert first.train.path.read_bytes() == b"train 1"
    assert first.test.facts == {"num_images": 3, "content_hash": "test"}
    assert _visible(tmp_path / "store") == [first.card["key"]]


def test_other_facts_stand_beside(tmp_path: Path) -> None:
    making, store = Making(), ImageStore(tmp_path)
    first = store.find_or_make({"a": 1}, making)
    second = store.find_or_make({"a": 2}, making)
    assert first.train.path != second.train.path
    assert first.train.path.read_bytes() == b"train 1"
    assert store.find_or_make({"a": 1}, making) == first
    assert making.times == 2


def test_failure_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / SPLIT_NAMES["train"]).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageStore(tmp_path).find_or_make({"a": 1}, fail)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]
    making = Making()
    ImageStore(tmp_path).find_or_make({"a": 1}, making)
    assert making.times == 1


def test_killed_run_is_cleared_away_and_done_again(tmp_path: Path) -> None:
    source = str(Path(__file__).parents[2] / "src")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    assert killed.returncode == -9
    assert _visible(tmp_path) == []
    assert len(list(tmp_path.glob(".aside-*"))) == 1
    making = Making()
    prepared = ImageStore(tmp_path).find_or_make({"a": 1}, making)
    assert prepared.train.path.read_bytes() == b"train 1"
    assert list(tmp_path.glob(".aside-*")) == []


@pytest.mark.parametrize(
    "damage", ["cut", "altered", "gone", "no card", "half a card", "another card"]
)
def test_damaged_work_is_done_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    making, store = Making(), ImageStore(tmp_path)
    first = store.find_or_make({"a": 1}, making)
    card = first.train.path.with_name("data_card.json")
    if damage == "cut":
        first.train.path.write_bytes(b"tra")
    elif damage == "altered":
        first.train.path.write_bytes(b"train 7")
    elif damage == "another card":
        card.write_text("[]")
    elif damage == "gone":
        first.test.path.unlink()
    elif damage == "no card":
        card.unlink()
    else:
        card.write_text(card.read_text()[:20])
    again = store.find_or_make({"a": 1}, making)
    assert making.times == 2
    assert again.train.path.read_bytes() == b"train 2"
    assert caplog.text.count("is not whole") == 1
    json.loads(card.read_text())


@pytest.mark.parametrize("part", ["images", "labels", "header", None])
def test_images_with_a_card_of_an_earlier_version_are_checked_too(tmp_path, part, caplog):
    random, calls = np.random.default_rng(0), []

    def make(folder: Path) -> dict[str, Any]:
        calls.append(1)
        splits = {}
        for split, name in SPLIT_NAMES.items():
            images = random.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
            images = ImageSet(images, np.arange(20) % 2, ("a", "b"))
            images.save(folder / name)
            splits[split] = {"num_images": 20, "content_hash": images.content_hash}
        return {"splits": splits}

    store = ImageStore(tmp_path)
    first = store.find_or_make({}, make)
    path = first.train.path.with_name("data_card.json")
    card = json.loads(path.read_text())
    for facts in card["splits"].values():
        del facts["sha256"]
    path.write_text(json.dumps(card))
    content = bytearray(first.train.path.read_bytes())
    if part == "images":
        content[content.index(images_of(first.train.path)) + 7] ^= 1
    elif part == "labels":
        content[-8] ^= 1
    elif part == "header":
        where = content.index(first.train.facts["content_hash"].encode())
        content[where] = ord("1") if content[where] == ord("0") else ord("0")
    first.train.path.write_bytes(content)
    again = ImageStore(tmp_path).find_or_make({}, make)
    assert len(calls) == (1 if part is None else 2)
    assert ("is not whole" in caplog.text) == (part is not None)
    assert ImageSet.open(again.train.path).content_hash == again.train.facts["content_hash"]


def images_of(path: Path) -> bytes:
    return ImageSet.open(path).images.tobytes()


def test_files_that_were_checked_before_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(content_module, "_YOUNG_SECONDS", -1e6)
    making, store = Making(), ImageStore(tmp_path)
    first = store.find_or_make({"a": 1}, making)
    store.find_or_make({"a": 1}, making)
    memory = tmp_path / ".hashes.json"
    assert set(json.loads(memory.read_text())) == {str(first.train.path), str(first.test.path)}
    monkeypatch.setattr(content_module, "sha256_of", None)
    assert store.find_or_make({"a": 1}, making) == first


def test_second_run_waits_for_the_first(tmp_path: Path) -> None:
    making, started, results = Making(), threading.Event(), []
    may_end = threading.Event()

    def slow(folder: Path) -> dict[str, Any]:
        started.set()
        assert may_end.wait(20)
        return making(folder)

    def run(make: Any) -> None:
        results.append(ImageStore(tmp_path).find_or_make({"a": 1}, make))

    first = threading.Thread(target=run, args=(slow,))
    first.start()
    assert started.wait(20)
    second = threading.Thread(target=run, args=(making,))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    assert results == []
    may_end.set()
    first.join(20)
    second.join(20)
    assert making.times == 1
    assert results[0] == results[1]


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="set prepared_root"):
            ImageStore(path).find_or_make({}, Making())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match=r"Permission denied.*set prepared_root"):
            ImageStore(tmp_path / "store").find_or_make({}, Making())
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="no space left"):
        ImageStore(tmp_path).find_or_make({}, fill)
