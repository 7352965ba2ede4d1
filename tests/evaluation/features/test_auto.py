from __future__ import annotations

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features import AutoFeatures, EfficientNetLite, PrincipalComponents


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 8, 8), PrincipalComponents),
        ((3, 23, 64), PrincipalComponents),
        ((4, 64, 64), PrincipalComponents),
        ((1, 28, 28), EfficientNetLite),
        ((3, 24, 24), EfficientNetLite),
    ],
)
def test_the_images_choose(shape, kind):
    chosen = AutoFeatures().for_images(shape)
    assert type(chosen) is kind
    assert chosen.uses_pixels is (kind is PrincipalComponents)


def test_its_arguments_are_those_of_the_choice():
    assert type(AutoFeatures(from_pixels=16).for_images((3, 16, 16))) is EfficientNetLite
    assert AutoFeatures(num_components=7).for_images((3, 8, 8)).num_components == 7
    for wrong in ({"from_pixels": 0}, {"num_components": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}=0"):
            AutoFeatures(**wrong)
