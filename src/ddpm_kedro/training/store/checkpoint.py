"""One checkpoint on disk: a folder of two files, checked when it is read.

`tensors.safetensors` holds the numbers, `checkpoint.json` everything else, with checksums of
both. The folder gets its name by one rename, after all bytes are on the disk, so it is whole unless
the disk or a hand changed it afterwards; the checksums tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpm_kedro.files import atomic_folder, atomic_write, fsync, sha256_of
from ddpm_kedro.plain import canonical_json

TENSORS_NAME = "tensors.safetensors"
FACTS_NAME = "checkpoint.json"
FORMAT = "ddpm_kedro checkpoint 1"
_NAME = re.compile(r"step_(\d{10,})(?:\.\d+)?")  # a number at the end: by earlier versions


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, verified and loaded."""

    step: int
    images_seen: int
    tensors: dict[str, Tensor]  # on the CPU
    facts: dict[str, Any]
    path: Path


class DamagedCheckpoint(Exception):
    """A folder that is not a whole checkpoint of this training; the message is the reason."""


class Snapshot:
    """The values of `tensors` at this point of the program, whatever happens to them later.

    Tensors on a GPU (all on one) are copied into page-locked memory by the current stream, behind
    the work that is already queued there and before any that is queued later, so the host need not
    wait; `ready` waits in whatever thread needs them. TypeError where something is no tensor or has
    values that a checkpoint cannot hold.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies: dict[str, Tensor] = {}
        self._arrived: torch.cuda.Event | None = None
        gpu = None
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_complex():
                raise TypeError(f"{name}: a checkpoint cannot hold {tensor!r}")
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name] = copy.copy_(tensor.detach(), non_blocking=True)
            gpu = tensor.device if tensor.is_cuda else gpu
        if gpu is not None:  # pragma: cuda only
            self._arrived = torch.cuda.current_stream(gpu).record_event()

    def ready(self) -> dict[str, Tensor]:
        """The copies: contiguous CPU tensors; waits until the last of them has arrived."""
        if self._arrived is not None:  # pragma: cuda only
            self._arrived.synchronize()
        return self._copies


def checkpoint_name(step: int) -> str:
    """The name of the folder of the checkpoint at `step`."""
    return f"step_{step:010d}"


def step_in(name: str) -> int | None:
    """The step in a folder's name, or None for a name that is not ours."""
    return int(match[1]) if (match := _NAME.fullmatch(name)) else None


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], body: Mapping[str, Any]) -> None:
    """Write a checkpoint that appears as `folder` in one rename, when it is whole on the disk.

    `tensors` are contiguous and on the CPU, `body` holds the JSON-serialisable facts; `format`,
    sizes and checksums are added. An OSError says that the disk is full or cannot be written.
    """
    with atomic_folder(folder) as aside:
        path, facts_path = aside / TENSORS_NAME, aside / FACTS_NAME
        try:
            save_file(dict(tensors), path)
        except SafetensorError as error:  # it tells of a full disk in words alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        size, checksum = path.stat().st_size, sha256_of(path)
        body = {**body, "format": FORMAT, "tensors_bytes": size, "tensors_sha256": checksum}
        with atomic_write(facts_path, "w") as file:
            json.dump({**body, "checksum": _checksum(body)}, file, indent=1)
        shutil.copymode(facts_path, path)  # the library lets nobody else read its files
        fsync(path)


def read_facts(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The facts alone of the checkpoint in `folder`; checked, and refused, as `read_checkpoint`
    does."""
    try:
        with _reading(FACTS_NAME):
            body = json.loads((folder / FACTS_NAME).read_bytes())
        checksum = body.pop("checksum")
        kind = body["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{FACTS_NAME} is torn or not ours") from None
    if kind != FORMAT:
        raise DamagedCheckpoint(f"{FACTS_NAME} has another format ({kind!r}, not {FORMAT!r})")
    if checksum != _checksum(body):
        raise DamagedCheckpoint(f"{FACTS_NAME} does not match its checksum")
    if body["fingerprint"] != fingerprint:
        raise DamagedCheckpoint(f"it belongs to another training ({body['fingerprint']})")
    if step_in(folder.name) != body["step"]:
        raise DamagedCheckpoint(f"it was written under another name (step {body['step']})")
    return body


def read_checkpoint(folder: Path, fingerprint: str) -> Checkpoint:
    """The checkpoint in `folder`, every byte compared with its checksum; the tensors are
    memory-mapped copy-on-write, so that nothing is read twice and no file changes with them.
    DamagedCheckpoint where it is torn, truncated, changed, or not of the training `fingerprint`."""
    body = read_facts(folder, fingerprint)
    path = folder / TENSORS_NAME
    with _reading(TENSORS_NAME):
        size = path.stat().st_size
        if size != body["tensors_bytes"]:
            raise DamagedCheckpoint(
                f"{TENSORS_NAME} has {size:,} bytes, not {body['tensors_bytes']:,}"
            )
        if sha256_of(path) != body["tensors_sha256"]:
            raise DamagedCheckpoint(f"{TENSORS_NAME} does not match its checksum")
        tensors = load_file(path)
    return Checkpoint(body["step"], body["images_seen"], tensors, body["facts"], folder)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{name} is missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{name} cannot be read ({error.strerror})") from None
