"""A CUDA GPU that computes nothing: real CUDA tensors on a machine without one.

    python fake_cuda.py SCRIPT.py [ARGUMENTS]          run a script on it
    python fake_cuda.py -m pytest -m cuda tests/...    or a module

``null_gpu.cpp`` (beside this file) stands in for the CUDA runtime, the driver, cuBLAS and cuDNN: it
is compiled with g++ and preloaded. Kernels and library calls are recorded and not run; memory is
reserved and not used; copies are real; stream capture obeys CUDA's rules (a wait or a cudaMalloc of
the capturing thread breaks it). Everything above is PyTorch's own C++: allocator, generators,
CUDAGraph, autocast, autograd, the choice of attention kernels, cuDNN's layouts, Inductor and Triton
with ptxas.

Inside such a process::

    import fake_cuda
    with fake_cuda.record() as seen:
        step(images, labels)
    assert not seen.waits                  # every cudaStreamSynchronize, not only those torch knows
    print(seen.kernels, seen.copies, seen.captured, seen.breaks, seen.names())

What it can check: that code runs on CUDA at all (devices mixed up, types and layouts refused),
waits of the host, what a CUDA graph refuses and what a failed capture leaves behind, kernels per
step by name, host time per step (launches cost nothing), memory by torch's allocator (cuDNN's
workspaces are 0), out-of-memory with ``torch.cuda.set_per_process_memory_fraction``, pinned memory,
checkpoints, recompilations, several devices in one process (FAKE_CUDA_GPUS=2).

What it cannot: any value that a kernel computes (memory reads as zeros or as whatever was copied
there; an assertion about values fails, and code that branches on values takes any branch), time on
the GPU, races between streams, cuDNN's and cuBLAS's refusals of a shape, NCCL, kernels made by
NVRTC (``erfinv``: LogNormalTimesteps crashes), the profiler. It needs g++, a CUDA build of torch
and CUDA's headers (those of the nvidia and triton wheels that torch brings will do).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().with_name("null_gpu.cpp")


@dataclass
class Seen:
    """What happened, in order: (kind, name)."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def _of(self, *kinds: str) -> list[str]:
        return [name for kind, name in self.events if kind in kinds]

    @property
    def kernels(self) -> int:
        """Launched outside of a capture, library calls included."""
        return len(self._of("kernel"))

    @property
    def captured(self) -> int:
        """Kernels and copies that went into a graph."""
        return len(self._of("captured kernel", "captured call"))

    @property
    def waits(self) -> list[str]:
        """Synchronisations of the host."""
        return self._of("wait")

    @property
    def copies(self) -> list[str]:
        """Directions, pinned or pageable, bytes."""
        return self._of("copy")

    @property
    def breaks(self) -> list[str]:
        """What broke a capture."""
        return self._of("capture broken by")

    def names(self, most: int = 20) -> list[tuple[str, int]]:
        """The kernels by how often they were launched or captured."""
        mangled = "\n".join(self._of("kernel", "captured kernel"))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
        done = subprocess.run(["c++filt"], input=mangled, text=True, capture_output=True, env=clean)
        return Counter(done.stdout.splitlines()).most_common(most)


@contextmanager
def record() -> Iterator[Seen]:
    """Note what is launched, copied and waited for inside."""
    gpu, seen = _gpu(), Seen()
    gpu.null_gpu_clear()
    try:
        yield seen
    finally:
        with tempfile.NamedTemporaryFile("r", suffix=".txt") as file:
            gpu.null_gpu_dump(file.name.encode())
            seen.events = [tuple(line.rstrip("\n").split("\t", 1)) for line in file]


def device_bytes() -> int:
    """Taken by cudaMalloc at this moment, over all of the process."""
    return _gpu().null_gpu_used()


def _gpu() -> ctypes.CDLL:
    gpu = ctypes.CDLL(None)
    if not hasattr(gpu, "null_gpu_used"):
        raise RuntimeError("start this process with: python fake_cuda.py SCRIPT.py")
    gpu.null_gpu_used.restype = ctypes.c_size_t
    return gpu


def built() -> Path:
    """The folder with the compiled stand-in, named as the driver's library."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"fake_cuda-{os.getuid()}-{digest}"
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"))
        triton = (
            Path(sysconfig.get_path("purelib")) / "triton/backends/nvidia/include"
        )  # crt/ is here
        toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
        headers = [f"-I{path}" for path in [*wheels, triton, toolkit]]
        aside = library.with_suffix(f".{os.getpid()}")
        subprocess.run(
            ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", *headers, "-Wl,-soname,libcuda.so.1",
             "-o", str(aside), str(SOURCE), "-ldl", "-lpthread"],
            check=True,
        )  # fmt: skip
        aside.rename(library)
    here = folder / "python" / Path(__file__).name  # apart from other modules
    here.parent.mkdir(exist_ok=True)
    if not here.is_symlink():
        here.symlink_to(Path(__file__).resolve())
    return folder


def main() -> None:
    """Become Python on the fake GPU."""
    if len(sys.argv) < 2:
        sys.exit(__doc__.split("\n\n")[1])
    folder = built()
    environment = dict(os.environ)
    environment["LD_PRELOAD"] = str(folder / "libcuda.so.1")
    environment["LD_LIBRARY_PATH"] = f"{folder}:{environment.get('LD_LIBRARY_PATH', '')}".rstrip(
        ":"
    )
    environment["PYTHONPATH"] = f"{folder}/python:{environment.get('PYTHONPATH', '')}".rstrip(":")
    environment.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
