"""A checkpoint is whole, or recognised as not whole, with the reason."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file

from ddpm_kedro.training.store.checkpoint import (
    FACTS_NAME,
    TENSORS_NAME,
    DamagedCheckpoint,
    Snapshot,
    checkpoint_name,
    read_checkpoint,
    step_in,
    write_checkpoint,
)

FINGERPRINT = "0123456789abcdef"
BODY = {
    "fingerprint": FINGERPRINT,
    "step": 7,
    "images_seen": 896,
    "held_out_loss": 0.5,  # as in those written before it was dropped
    "facts": {"skipped": 1, "rates": [1.0, 0.1]},
    "parameters": {"shaping": {"seed": 0}, "recorded": {"device": "cpu"}},
}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "weight": torch.randn(4, 3, 3, 3, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "bfloat": torch.randn(5, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "flag": torch.tensor(True),
        "step": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / checkpoint_name(7)
    write_checkpoint(path, tensors(), BODY)
    return path


def reason(folder):
    with pytest.raises(DamagedCheckpoint) as damage:
        read_checkpoint(folder, FINGERPRINT)
    return str(damage.value)


def test_it_gives_back_what_it_was_given(folder):
    checkpoint = read_checkpoint(folder, FINGERPRINT)
    assert checkpoint.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)
    assert (checkpoint.step, checkpoint.images_seen) == (7, 896)
    assert checkpoint.facts == BODY["facts"]
    assert checkpoint.path == folder


def test_the_tensor_file_is_what_the_safetensors_library_reads(folder):
    loaded = load_file(folder / TENSORS_NAME)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors().items())


def test_every_value_starts_at_a_multiple_of_its_size(folder):
    data = (folder / TENSORS_NAME).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    for name, tensor in tensors().items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_changing_loaded_tensors_changes_no_file(folder):
    read_checkpoint(folder, FINGERPRINT).tensors["weight"].zero_()
    assert torch.equal(read_checkpoint(folder, FINGERPRINT).tensors["weight"], tensors()["weight"])


def test_loaded_tensors_outlive_their_file(folder):
    checkpoint = read_checkpoint(folder, FINGERPRINT)
    shutil.rmtree(folder)
    assert torch.equal(checkpoint.tensors["weight"], tensors()["weight"])


@pytest.mark.parametrize("name", [TENSORS_NAME, FACTS_NAME])
def test_every_truncation_is_recognised(folder, name):
    whole = (folder / name).read_bytes()
    for length in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}:
        (folder / name).write_bytes(whole[:length])
        assert name in reason(folder)


def test_a_flipped_bit_of_the_tensors_is_recognised(folder):
    path = folder / TENSORS_NAME
    whole = bytearray(path.read_bytes())
    for place in range(0, len(whole), 3):
        whole[place] ^= 1 << place % 8
        path.write_bytes(whole)
        assert reason(folder) == f"{TENSORS_NAME} does not match its checksum"
        whole[place] ^= 1 << place % 8


def test_a_flipped_bit_of_the_facts_is_recognised_or_changes_nothing(folder):
    path = folder / FACTS_NAME
    before = read_checkpoint(folder, FINGERPRINT)
    whole = bytearray(path.read_bytes())
    harmless = 0
    for place in range(0, len(whole), 3):
        whole[place] ^= 1 << place % 7
        path.write_bytes(whole)
        try:
            after = read_checkpoint(folder, FINGERPRINT)
        except DamagedCheckpoint:
            pass
        else:  # a space that became another kind of space
            harmless += 1
            assert (after.step, after.facts) == (before.step, before.facts)
        whole[place] ^= 1 << place % 7
    assert harmless < len(whole) / 12


@pytest.mark.parametrize("name", [TENSORS_NAME, FACTS_NAME])
def test_a_missing_file_is_recognised(folder, name):
    (folder / name).unlink()
    assert reason(folder) == f"{name} is missing"


def test_a_folder_in_place_of_a_file_is_recognised(folder):
    (folder / FACTS_NAME).unlink()
    (folder / FACTS_NAME).mkdir()
    assert reason(folder) == f"{FACTS_NAME} cannot be read (Is a directory)"


def test_swapped_tensors_of_the_same_size_are_recognised(folder, tmp_path):
    other = tmp_path / checkpoint_name(8)
    changed = tensors()
    changed["weight"] += 1
    write_checkpoint(other, changed, {**BODY, "step": 8})
    shutil.copy(other / TENSORS_NAME, folder / TENSORS_NAME)
    assert reason(folder) == f"{TENSORS_NAME} does not match its checksum"


def test_another_trainings_checkpoint_is_foreign(folder):
    with pytest.raises(DamagedCheckpoint, match=f"belongs to another training \\({FINGERPRINT}"):
        read_checkpoint(folder, "f" * 16)


def test_a_renamed_checkpoint_is_recognised(folder):
    assert "another name (step 7)" in reason(folder.rename(folder.with_name(checkpoint_name(70))))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}", "torn or not ours"),
        (b"[]", "torn or not ours"),
        (b'"text"', "torn or not ours"),
        (b"\x80\x04K\x01.", "torn or not ours"),
        (json.dumps({"format": "other 9", "checksum": ""}).encode(), "another format ('other 9'"),
    ],
)
def test_foreign_facts_are_recognised(folder, content, why):
    (folder / FACTS_NAME).write_bytes(content)
    assert why in reason(folder)


def test_what_no_file_can_hold_is_refused():
    for bad in (torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64), [1.0]):
        with pytest.raises(TypeError, match="bad"):
            Snapshot({"good": torch.zeros(1), "bad": bad})


def test_names_round_trip():
    for step in (0, 7, 10**11):
        assert step_in(checkpoint_name(step)) == step
    assert step_in("step_0000000007.2") == 7  # as earlier versions named a second one
    for name in ("step_7", "step_0000000007.tmp", "old_step_0000000007", ".aside-1"):
        assert step_in(name) is None


def test_both_files_are_readable_by_whom_the_umask_lets(folder):
    assert len({(folder / name).stat().st_mode for name in (FACTS_NAME, TENSORS_NAME)}) == 1


def test_what_stands_under_the_name_is_replaced(folder):
    changed = tensors() | {"weight": torch.zeros(2)}
    write_checkpoint(folder, changed, BODY)
    assert torch.equal(read_checkpoint(folder, FINGERPRINT).tensors["weight"], torch.zeros(2))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_later_changes_do_not_reach_a_snapshot(device):
    tensor = torch.arange(12.0, device=device).reshape(3, 4)
    weight = torch.nn.Parameter(torch.ones(2, 3, 4, 4, device=device))
    weight.data = weight.data.to(memory_format=torch.channels_last)
    snapshot = Snapshot({"tensor": tensor, "turned": tensor.T, "weight": weight})
    tensor.zero_()
    with torch.no_grad():
        weight.zero_()
    copies = snapshot.ready()
    expected = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(copies["tensor"], expected)
    assert torch.equal(copies["turned"], expected.T)
    assert torch.equal(copies["weight"], torch.ones(2, 3, 4, 4))
    for copy in copies.values():
        assert copy.device.type == "cpu"
        assert copy.is_contiguous()
        assert not copy.requires_grad


def test_a_snapshot_waits_for_work_that_was_queued_before_it(device):
    value = torch.ones(512, 512, device=device, dtype=torch.float64)
    for _ in range(20):
        value = value @ value / 512
    snapshot = Snapshot({"value": value})
    value.zero_()
    assert torch.equal(snapshot.ready()["value"], torch.ones(512, 512, dtype=torch.float64))
