"""Memory kept inside a block, and given back after it."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from ddpm_kedro.heap import kept_heap

MEGABYTE = 1 << 20
has_glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
pytestmark = pytest.mark.skipif(not has_glibc, reason="the allocator is not glibc's")


def touch_large_blocks() -> None:
    blocks = [torch.zeros(size * MEGABYTE, dtype=torch.uint8) for size in (3, 40, 150)]
    assert all(int(block[-1]) == 0 for block in blocks)


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_blocks_taken_again_are_mapped_already() -> None:
    pages = 193 * MEGABYTE // resource.getpagesize()
    before = page_faults()
    with kept_heap():
        for _ in range(30):  # at first some find no room: an aligned block needs some to spare
            touch_large_blocks()
    assert page_faults() - before < 15 * pages


def test_memory_goes_back_at_the_end_of_the_outermost_block() -> None:
    before = anonymous_bytes()
    with kept_heap():
        touch_large_blocks()
        with kept_heap():
            touch_large_blocks()
        assert anonymous_bytes() - before > 180 * MEGABYTE
    assert anonymous_bytes() - before < 20 * MEGABYTE


def test_an_error_inside_ends_it_too() -> None:
    before = anonymous_bytes()
    with contextlib.suppress(ValueError), kept_heap():
        touch_large_blocks()
        raise ValueError
    assert anonymous_bytes() - before < 20 * MEGABYTE
