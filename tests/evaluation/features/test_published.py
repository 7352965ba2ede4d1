from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features import DINOv2, Inception

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 24), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, with random numbers in it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    nothing, path = io.BytesIO(), tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Unloaded("inception", ["2048"], feature_extractor_weights_path=nothing)
    torch.save(network.state_dict(), path)
    return path


def extracted(extractor: Inception | DINOv2, images: np.ndarray) -> np.ndarray:
    return np.concatenate(list(extractor.features(images)))


def test_inception_is_torch_fidelity_s(weights):
    from torch_fidelity.utils import create_feature_extractor

    theirs = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights)
    )
    extractor = Inception(str(weights))
    found = extracted(extractor, IMAGES)
    np.testing.assert_array_equal(found, theirs(torch.from_numpy(IMAGES))[0].numpy())
    assert found.shape == (2, 2048)
    assert found.std() > 0
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.identity == f"inception 299px fp32 {sha256[:8]}"


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.place),)


def test_a_file_of_something_else_is_refused_and_not_run(tmp_path):
    path, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    extractor = Inception(str(path))
    with pytest.raises(InputError, match=r"weights\.pth: cannot be read \(No such file"):
        extractor.check()
    for content, words in (
        (pickle.dumps(Trap(sprung), 2), "is not a file of tensors"),
        (b"", "is not a file of tensors"),
        (b"PK\x03\x04 torn", "is not a file of tensors"),
        (saved({"fc.weight": Trap(sprung)}), "is not a file of tensors"),
        (saved([torch.zeros(2)]), "holds something else than named tensors"),
        (saved({"fc.weight": 3}), "holds something else than named tensors"),
        (saved({"fc.weight": torch.zeros(2)}), "does not fit torch-fidelity's network"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as refused:
            extractor.check()
        assert str(refused.value).startswith(f"features inception: weights {path}: ")
        assert "\n" not in str(refused.value)
    assert not sprung.exists()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for torch hub, and no network."""

    def offline(*_: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    return tmp_path


@pytest.mark.parametrize("kind", [Inception, DINOv2])
def test_without_a_network_the_way_out_is_told(kind, hub):
    words = r"https.*cannot be downloaded.*no route to host.*say where by feature_extractors\."
    with pytest.raises(InputError, match=words) as refused:
        kind().check()
    assert "\n" not in str(refused.value)


def test_what_was_downloaded_before_is_used(hub, weights):
    (hub / "checkpoints").mkdir()
    kept = hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    kept.symlink_to(weights)
    assert Inception().identity == Inception(str(weights)).identity


def test_a_download_is_checked_by_the_hash_in_its_name(hub, monkeypatch):
    def altered(request: object) -> io.BytesIO:
        answer = io.BytesIO(b"something else")
        answer.info = lambda: SimpleNamespace(get_all=lambda _: None)  # type: ignore[attr-defined]
        return answer

    monkeypatch.setattr(torch.hub, "urlopen", altered)
    with pytest.raises(InputError, match=r"cannot be downloaded \(invalid hash value"):
        Inception().check()
    assert not list(hub.rglob("*.pth"))


class Tiny(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_dinov2_comes_from_a_folder_of_torch_hub(tmp_path, monkeypatch):
    """Code and weights from that folder, and torch hub's own is as it was."""
    usual, asked = torch.hub.get_dir(), []
    monkeypatch.setattr(
        torch.hub, "load", lambda *names: asked.append((torch.hub.get_dir(), *names)) or Tiny()
    )
    extractor = DINOv2(str(tmp_path), variant="b")
    with pytest.raises(InputError, match=r"dinov2_vitb14_pretrain\.pth: cannot be read"):
        extractor.check()
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "dinov2_vitb14_pretrain.pth"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), 2))
    with pytest.raises(InputError, match="is not a file of tensors"):
        extractor.check()
    assert not asked
    path.write_bytes(saved({"cls_token": torch.zeros(3)}))
    assert extracted(extractor, IMAGES).shape == (2, 3)
    assert asked == [(str(tmp_path), "facebookresearch/dinov2", "dinov2_vitb14")]
    assert torch.hub.get_dir() == usual
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert extractor.identity == f"dinov2 b 224px fp32 {start}"


def test_what_it_cannot_do_is_refused(weights, monkeypatch):
    with pytest.raises(InputError, match="variant=xl: of DINOv2 there is s, b, l or g"):
        DINOv2(variant="xl")
    with pytest.raises(InputError, match=r"inception 299px fp32.*not 4 channels"):
        Inception(str(weights)).for_images((4, 32, 32))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ddpm_kedro\[fidelity\]'"):
        Inception(str(weights)).check()
