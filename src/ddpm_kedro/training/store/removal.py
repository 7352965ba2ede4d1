"""Folders that appear and go in one rename, and what is left of those that a kill interrupted."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

_ASIDE = ".aside-"


def name_aside(parent: Path) -> Path:
    """A new hidden name in ``parent`` for a folder that is being built or removed."""
    return parent / f"{_ASIDE}{uuid.uuid4().hex}"


def remove_folder(path: Path) -> None:
    """Remove a folder (or file, or link) so that nobody ever finds half of it under its name."""
    aside = name_aside(path.parent)
    os.rename(path, aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def clear_leftovers(folder: Path) -> None:
    """Remove what :func:`remove_folder` and killed writers left in ``folder``."""
    for path in folder.glob(f"{_ASIDE}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
