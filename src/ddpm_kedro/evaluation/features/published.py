"""The networks of published scores, through torch-fidelity."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features.network_features import NetworkFeatures

LOGGER = logging.getLogger(__name__)


class Published(NetworkFeatures):
    """A network of torch-fidelity's with weights from the disk. Whatever file they come from, it is
    opened without unpickling anything but tensors, and its SHA-256 belongs to the identity."""

    name: str
    image_size: int
    url: str

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.weights = weights
        self._sha256 = ""

    @property
    def identity(self) -> str:
        """As in `inception 299px fp32 6726825d`; the first time InputError as `check`."""
        if not self._sha256:
            self._content()
        return f"{self.name} {self.image_size}px fp32 {self._sha256[:8]}"

    def check(self) -> None:
        """InputError where torch-fidelity or the weights are missing, or these are of something
        else; downloads them where none are given and none are there."""
        _ = self.network

    def make_network(self) -> nn.Module:
        """Of torch-fidelity; InputError as `check`."""
        if importlib.util.find_spec("torch_fidelity") is None:
            raise InputError(
                f"features {self.name}: needs torch-fidelity; pip install 'ddpm_kedro[fidelity]'"
            )
        tensors = self._tensors()
        try:
            return self.build(tensors)
        except (OSError, ImportError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise self._refusal(f"does not fit torch-fidelity's network ({first})") from error

    @abstractmethod
    def build(self, tensors: dict[str, torch.Tensor]) -> nn.Module:
        """The network with these weights."""

    @abstractmethod
    def path(self) -> Path:
        """Where the file of weights stands, or is downloaded to."""

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of uint8 images (n, 3, H, W), which it resizes itself."""
        return self.network(images)[0]

    def _tensors(self) -> dict[str, torch.Tensor]:
        content = io.BytesIO(self._content())
        try:
            found: Any = torch.load(content, weights_only=True)
        except Exception as error:  # of whatever kind: nobody knows what the file holds
            raise self._refusal("is not a file of tensors, or is damaged") from error
        if not isinstance(found, dict) or not all(map(torch.is_tensor, found.values())):
            raise self._refusal("holds something else than named tensors")
        return found

    def _content(self) -> bytes:
        path = self.path()
        try:
            if self.weights is None and not path.exists():
                LOGGER.info("downloading %s", self.url)
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(self.url, str(path), self._hash_in_name())
            content = path.read_bytes()
        except (OSError, RuntimeError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            if self.weights is not None:
                raise self._refusal(f"cannot be read ({why})") from error
            raise InputError(
                f"features {self.name}: {self.url} cannot be downloaded ({why}); bring it here "
                f"and say where by feature_extractors.{self.name}.weights"
            ) from error
        self._sha256 = hashlib.sha256(content).hexdigest()
        return content

    def _hash_in_name(self) -> str | None:
        return None

    def _refusal(self, what: str) -> InputError:
        return InputError(f"features {self.name}: weights {self.path()}: {what}")


class Inception(Published):
    """The 2,048 pooled features of the Inception network of published FIDs (Heusel et al. 2017),
    resized and computed as TensorFlow did. `weights` is a file as torch-fidelity publishes it, None
    downloads that into torch hub's folder."""

    name, image_size = "inception", 299
    url = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth"
    )

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights)

    def path(self) -> Path:
        """The file given, or its place in torch hub's folder."""
        kept = Path(torch.hub.get_dir(), "checkpoints", self.url.rpartition("/")[2])
        return kept if self.weights is None else Path(self.weights)

    def build(self, tensors: dict[str, torch.Tensor]) -> nn.Module:
        """Theirs, which unpickles what it is given: so it is given what was looked at."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        looked_at = io.BytesIO()
        torch.save(tensors, looked_at)
        looked_at.seek(0)
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=looked_at
        )

    def _hash_in_name(self) -> str:
        return Path(self.url).stem.rpartition("-")[2]


class DINOv2(Published):
    """Features of a DINOv2 vision transformer (Oquab et al. 2023), 384 of them for `variant` s,
    768 for b, 1,024 for l, 1,536 for g.

    Its code is not in a package: torch hub takes it from the authors' repository and runs it. So
    `weights` is a folder as torch hub fills it, with their code and `checkpoints/*.pth`, brought
    from another machine; None is torch hub's own, filled by a download.
    """

    name, image_size = "dinov2", 224

    def __init__(self, weights: str | None = None, variant: str = "s") -> None:
        super().__init__(weights)
        if variant not in ("s", "b", "l", "g"):
            raise InputError(f"variant={variant}: of DINOv2 there is s, b, l or g")
        self.variant = variant

    @property
    def url(self) -> str:
        """Of the weights."""
        model = f"dinov2_vit{self.variant}14"
        return f"https://dl.fbaipublicfiles.com/dinov2/{model}/{model}_pretrain.pth"

    @property
    def identity(self) -> str:
        """As in `dinov2 s 224px fp32 b938bf1b`."""
        return super().identity.replace(self.name, f"{self.name} {self.variant}", 1)

    def path(self) -> Path:
        """The file of weights in the hub's folder."""
        folder = torch.hub.get_dir() if self.weights is None else self.weights
        return Path(folder, "checkpoints", self.url.rpartition("/")[2])

    def build(self, tensors: dict[str, torch.Tensor]) -> nn.Module:
        """Theirs; it reads the file that was looked at again."""
        from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

        usual = torch.hub.get_dir()
        torch.hub.set_dir(str(self.path().parents[1]))
        try:
            return FeatureExtractorDinoV2(f"dinov2-vit-{self.variant}-14", ["dinov2"])
        finally:
            torch.hub.set_dir(usual)
