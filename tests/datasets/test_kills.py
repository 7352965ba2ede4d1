"""A save that is killed at any of its steps leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kedro.io import Version
from PIL import Image

from ddpm_kedro.datasets.arrays import ImageSetFile, NumpyFile
from ddpm_kedro.datasets.diffusers_folder import DiffusersFolder
from ddpm_kedro.datasets.report_files import (
    DiagnosticsFile,
    JSONFile,
    MetricsFile,
    PictureFile,
    TextFile,
)
from ddpm_kedro.datasets.training_results import JSONLines, ModelFile, PreviewFolder
from ddpm_kedro.diffusion.interchange import DiffusersModel
from ddpm_kedro.files import Receipt

_STEPS = ("open", "os.mkdir", "os.link", "os.rename", "os.remove", "shutil.copyfile")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(step: int, save: Callable[[], None]) -> bool:
    """Whether a child that saves was killed: before its step of that number, or did it have fewer.

    A step is an operation on a file, or the moment after bytes went to the disk.
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str = "os.fsync", arguments: Any = ()) -> None:
            if event in _STEPS or event == "os.fsync":
                left[0] -= 1
                if left[0] < 0:
                    die()

        synced = os.fsync
        os.fsync = lambda handle: (synced(handle), count())[0]
        sys.addaudithook(count)
        try:
            save()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def receipt(path: Path, text: str) -> Receipt:
    path.write_text(text * 1000)
    return Receipt(path)


def grids(folder: Path, *counts: int) -> Receipt:
    folder.mkdir()
    for count in counts:
        Image.new("L", (4, 4), count).save(folder / f"preview_{count}.png")
    return Receipt(folder)


def exported(value: float) -> DiffusersModel:
    names = {"_class_name": "Any", "value": value}
    return DiffusersModel("Any", names, {"weight": torch.full((9,), value)}, names)


FILES = {
    JSONFile: lambda root: ({"a": 1}, {"b": [2] * 9999}),
    MetricsFile: lambda root: ({"a": 1}, {"b": 2}),
    DiagnosticsFile: lambda root: ({"figures": {}}, {"figures": {"a": {}}}),
    TextFile: lambda root: ("old", "new" * 9999),
    PictureFile: lambda root: (Image.new("L", (3, 3)), Image.new("RGB", (200, 200), (1, 2, 3))),
    NumpyFile: lambda root: (np.zeros(3), np.ones((100, 100))),
    ImageSetFile: lambda root: (receipt(root / "a", "old"), receipt(root / "b", "new")),
    ModelFile: lambda root: (receipt(root / "a", "old"), receipt(root / "b", "new")),
    JSONLines: lambda root: (receipt(root / "a", "old"), receipt(root / "b", "new")),
    PreviewFolder: lambda root: (grids(root / "a", 1), grids(root / "b", 2, 3)),
    DiffusersFolder: lambda root: (exported(1.0), exported(2.0)),
}
FOLDERS = (PreviewFolder, DiffusersFolder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
def test_a_killed_save_leaves_the_old_or_the_new(kind: Any, tmp_path: Path) -> None:
    old, new = FILES[kind](tmp_path)
    path = tmp_path / "there" / "it.png"
    dataset = kind(**{"path" if kind in FOLDERS else "filepath": str(path)})
    dataset.save(new)
    whole_new = content(path)
    dataset.save(old)
    whole_old = content(path)
    assert whole_old != whole_new
    step, seen = 0, []
    while killed_at(step, lambda: dataset.save(new)):
        seen.append(content(path) == whole_new)
        assert content(path) in (whole_old, whole_new)
        dataset.save(old)
        step += 1
    assert seen == sorted(seen)  # the old file up to one moment, the new one from then on
    assert False in seen
    assert content(path) == whole_new


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", [JSONFile, TextFile, PictureFile], ids=lambda kind: kind.__name__)
def test_a_killed_version_is_whole_or_not_there(kind: Any, tmp_path: Path) -> None:
    _, new = FILES[kind](tmp_path)
    step, is_killed = 0, True
    while is_killed:
        path = str(tmp_path / "it.png")
        dataset = kind(filepath=path, version=Version(None, f"{step:03}"))
        is_killed = killed_at(step, lambda dataset=dataset: dataset.save(new))
        again = kind(filepath=path, version=Version(None, "x"), required=False)
        loaded = again.load()
        assert loaded is None or np.array_equal(np.asarray(loaded), np.asarray(new))
        step += 1
    assert loaded is not None
    assert step > 2
