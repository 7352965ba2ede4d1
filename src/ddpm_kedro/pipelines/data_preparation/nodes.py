"""The preparing node: hands the images of a source to the store."""

from __future__ import annotations

from typing import Any

from ddpm_kedro.files import Receipt
from ddpm_kedro.images.preparation import prepare
from ddpm_kedro.images.source import ImageSource
from ddpm_kedro.images.store import ImageStore
from ddpm_kedro.parameters import PreparationParameters


def prepare_images(
    raw_images: ImageSource, image_store: ImageStore, parameters: PreparationParameters
) -> tuple[Receipt, Receipt, dict[str, Any]]:
    """Receipts of the files of the training and the test split, and the data card."""
    return prepare(raw_images, image_store, parameters)
