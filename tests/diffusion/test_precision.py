"""Which device and which precision."""

from __future__ import annotations

import pytest
import torch

from ddpm_kedro.diffusion.precision import (
    Precision,
    choose_device,
    choose_precision,
    told_out_of_memory,
)
from ddpm_kedro.errors import InputError


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "tpu", "", "xla"])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="device="):
        choose_device(name)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="finds 2 CUDA devices"):
        choose_device("cuda:2")


def test_auto_is_half_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            "ddpm_kedro.diffusion.precision.cpu_multiplies_bf16", lambda n=native: n
        )
        assert choose_precision("auto", cpu).name == name
    assert choose_precision("fp16", cpu).needs_loss_scale
    assert not choose_precision("bf16", cpu).needs_loss_scale


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_run_in_it(name: str, dtype: torch.dtype, device: torch.device) -> None:
    left = torch.ones(4, 4, device=device)
    with Precision(name, device.type, "").autocast():
        assert (left @ left).dtype == dtype


def test_modes_of_products_are_given_back() -> None:
    def searches() -> bool:
        return torch.backends.cudnn.benchmark

    before = torch.get_float32_matmul_precision()
    for name, mode in (("fp32", "highest"), ("bf16", "high")):
        with Precision(name, "cuda", "").product_mode():
            assert torch.get_float32_matmul_precision() == mode
            assert searches()
        assert torch.get_float32_matmul_precision() == before
        assert not searches()


@pytest.mark.parametrize(
    ("rows", "advice"),
    [(9, "sampling.batch_size=4 may fit"), (1, "not one fits: choose a smaller")],
)
def test_out_of_memory_names_what_would_fit(rows: int, advice: str) -> None:
    with (
        pytest.raises(InputError, match=f"on cuda:0 with {rows} images at a time; {advice}"),
        told_out_of_memory("sampling", rows, "cuda:0"),
    ):
        raise torch.OutOfMemoryError
