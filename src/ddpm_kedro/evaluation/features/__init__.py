"""What images are compared by."""

from ddpm_kedro.evaluation.features.auto import AutoFeatures as AutoFeatures
from ddpm_kedro.evaluation.features.efficientnet_lite import EfficientNetLite as EfficientNetLite
from ddpm_kedro.evaluation.features.extractor import FeatureExtractor as FeatureExtractor
from ddpm_kedro.evaluation.features.principal_components import (
    PrincipalComponents as PrincipalComponents,
)
from ddpm_kedro.evaluation.features.published import DINOv2 as DINOv2
from ddpm_kedro.evaluation.features.published import Inception as Inception
