"""One checkpoint on disk: a folder of two files, written aside and checked when it is read.

``tensors.safetensors`` holds the numbers, ``checkpoint.json`` everything else: step, images seen,
facts, the SHA-256 and size of the tensor file, and a checksum of itself. The folder gets its name
by one rename, after all bytes are on the disk, so a folder with the name is whole unless the disk
or a hand changed it afterwards; the checksums tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_kedro.files import fsync_folder, sha256_of
from ddpm_kedro.plain import canonical_json

TENSORS_NAME = "tensors.safetensors"
FACTS_NAME = "checkpoint.json"
FORMAT = "ddpm_kedro checkpoint 1"
_NAME = re.compile(r"step_(\d{10,})(?:\.(\d+))?")
_CHUNK_BYTES = 8 << 20
_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, verified and loaded.

    Attributes:
        step: optimizer steps taken.
        images_seen: training images seen, over all workers.
        tensors: CPU tensors by the names they were saved under.
        facts: plain values by the names they were saved under.
        path: its folder.
        parameters: all parameters it was trained with, under ``shaping`` and ``recorded``.
    """

    step: int
    images_seen: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    path: Path
    parameters: dict[str, Any] = field(default_factory=dict)


class DamagedCheckpoint(Exception):
    """A folder that is not a whole checkpoint of this training; the message is the reason."""


def checkpoint_name(step: int, attempt: int = 0) -> str:
    """The folder's name; a later ``attempt`` at the same step stands beside the earlier one."""
    return f"step_{step:010d}" + (f".{attempt}" if attempt else "")


def parse_name(name: str) -> tuple[int, int] | None:
    """Step and attempt in a folder's name, or None for a name that is not ours."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else None


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], body: Mapping[str, Any]) -> None:
    """Write both files of a checkpoint into the existing empty ``folder`` and make them durable.

    Args:
        folder: a temporary folder; the caller renames it when this returns.
        tensors: contiguous CPU tensors.
        body: JSON-serialisable facts; ``format``, sizes and checksums are added.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    size, checksum = _write_tensors(folder / TENSORS_NAME, tensors)
    body = {**body, "format": FORMAT, "tensors_bytes": size, "tensors_sha256": checksum}
    text = json.dumps({**body, "checksum": _checksum(body)}, indent=1)
    _write_durably(folder / FACTS_NAME, [text.encode()])
    fsync_folder(folder)


def read_facts(folder: Path, fingerprint: str) -> dict[str, Any]:
    """The facts of the checkpoint in ``folder``, checked against their checksum and its names.

    Raises:
        DamagedCheckpoint: they are missing, torn, changed, or belong to something else.
    """
    path = folder / FACTS_NAME
    try:
        body = json.loads(path.read_bytes())
        checksum = body.pop("checksum")
        kind = body["format"]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{FACTS_NAME} is missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{FACTS_NAME} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{FACTS_NAME} is torn or not ours") from None
    if kind != FORMAT:
        raise DamagedCheckpoint(f"{FACTS_NAME} has another format ({kind!r}, not {FORMAT!r})")
    if checksum != _checksum(body):
        raise DamagedCheckpoint(f"{FACTS_NAME} does not match its checksum")
    if body["fingerprint"] != fingerprint:
        raise DamagedCheckpoint(f"it belongs to another training ({body['fingerprint']})")
    named = parse_name(folder.name)
    if named is None or named[0] != body["step"]:
        raise DamagedCheckpoint(f"it was written under another name (step {body['step']})")
    return body


def read_checkpoint(folder: Path, fingerprint: str) -> Checkpoint:
    """The checkpoint in ``folder``, after every byte of it was compared with its checksum.

    The tensors are memory-mapped copy-on-write: nothing is read twice, and changing them in place
    changes no file.

    Args:
        folder: a folder that :func:`write_checkpoint` filled.
        fingerprint: the training it must belong to.

    Raises:
        DamagedCheckpoint: it is torn, truncated, changed, or belongs to something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    body = read_facts(folder, fingerprint)
    path = folder / TENSORS_NAME
    try:
        size = path.stat().st_size
        if size != body["tensors_bytes"]:
            raise DamagedCheckpoint(
                f"{TENSORS_NAME} has {size:,} bytes, not {body['tensors_bytes']:,}"
            )
        if sha256_of(path) != body["tensors_sha256"]:
            raise DamagedCheckpoint(f"{TENSORS_NAME} does not match its checksum")
        tensors = load_file(path)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{TENSORS_NAME} is missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{TENSORS_NAME} cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{TENSORS_NAME} is not a safetensors file ({error})") from None
    return Checkpoint(
        step=body["step"],
        images_seen=body["images_seen"],
        tensors=tensors,
        facts=body["facts"],
        path=folder,
        parameters=body["parameters"],
    )


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse, before any work, what a checkpoint cannot hold.

    Raises:
        TypeError: a value is no tensor, or of a type that safetensors does not know, or has no
            values ("meta").
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a checkpoint holds tensors, not {type(tensor).__name__}")
        if tensor.dtype not in _SAFETENSORS_NAMES or tensor.device.type == "meta":
            raise TypeError(f"{name}: {tensor.dtype} on {tensor.device} cannot be saved")


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file straight from the tensors' memory; return its size and SHA-256.

    Written here rather than by the library so that the checksum is of the memory, taken in the
    same pass, and a full disk is the OSError that it is. Layout: header
    length (8 bytes, little-endian), header (JSON, padded to 8 bytes), then the values.
    """
    header: dict[str, Any] = {}
    offset = 0
    # Wide types first: every value then starts at a multiple of its size, as memory maps need.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for name, tensor in ordered:
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    values = [t.reshape(-1).view(torch.uint8).numpy() for _, t in ordered if t.nbytes]
    return _write_durably(path, [struct.pack("<Q", len(text)) + text, *values])


def _write_durably(path: Path, buffers: list[Any]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, len(view), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                digest.update(chunk)
                size += len(chunk)
                while chunk:
                    chunk = chunk[os.write(handle, chunk) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, digest.hexdigest()
