"""Where images come from and how they become arrays."""

from ddpm_kedro.images.digits import Digits
from ddpm_kedro.images.folder import ImageFolder
from ddpm_kedro.images.parquet import ParquetImages
from ddpm_kedro.images.torchvision_images import TorchvisionImages

__all__ = ["Digits", "ImageFolder", "ParquetImages", "TorchvisionImages"]
