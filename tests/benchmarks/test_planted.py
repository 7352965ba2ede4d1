"""The planted generators do what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from planted import (
    COLOUR_ONLY,
    INVISIBLE,
    PERFECT,
    PLANTED,
    Material,
    blur,
    checkerboard,
    contrast,
    half_of_another,
    hue,
    mirrored,
    moved,
    noisy,
    quantised,
    saturation,
    shuffled_patches,
    through_pillow,
    towards_mean,
    upside_down,
)

COUNT = 40


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=[(1, 8, 8), (3, 16, 16)], ids=["grey", "colour"])
def images(request: pytest.FixtureRequest, random: np.random.Generator) -> np.ndarray:
    """Far enough from 0 and 255 that no small change is cut off."""
    return random.integers(60, 190, (3 * COUNT, *request.param), dtype=np.uint8)


@pytest.fixture
def material(images: np.ndarray) -> Material:
    return Material(
        images[:COUNT], np.arange(COUNT) % 4, images[COUNT : 2 * COUNT], images[2 * COUNT :]
    )


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def planted(name: str, material: Material, count: int = COUNT) -> np.ndarray:
    return PLANTED[name](material, count, np.random.default_rng(1))


@pytest.mark.parametrize("name", PLANTED)
def test_each_gives_as_many_images_as_asked_and_leaves_the_real_ones_alone(
    name: str, material: Material
) -> None:
    if name in COLOUR_ONLY and material.fresh.shape[1] == 1:
        pytest.skip("colour only")
    before = [part.copy() for part in (material.fresh, material.training, material.reference)]
    made = planted(name, material, 10)
    assert made.dtype == np.uint8
    assert made.shape == (10, *material.fresh.shape[1:])
    assert np.array_equal(made, planted(name, material, 10))
    for part, as_before in zip(
        (material.fresh, material.training, material.reference), before, strict=True
    ):
        assert np.array_equal(part, as_before)
    assert (name == PERFECT) == np.array_equal(made, material.fresh[:10])


def test_the_list_of_what_is_invisible_names_what_is_planted() -> None:
    for listed in INVISIBLE.values():
        assert set(listed) <= set(PLANTED)
        assert all(listed.values())


@pytest.mark.parametrize("change", [mirrored, upside_down])
def test_mirrored_twice_is_as_before(
    change, images: np.ndarray, random: np.random.Generator
) -> None:
    assert not np.array_equal(change(images, random), images)
    assert np.array_equal(change(change(images, random), random), images)


def test_shuffled_patches_are_the_same_patches(
    images: np.ndarray, random: np.random.Generator
) -> None:
    def patches(image: np.ndarray) -> list[bytes]:
        side = image.shape[-1] // 4
        cut = [image[:, y : y + side, x : x + side]
               for y in range(0, 4 * side, side) for x in range(0, 4 * side, side)]  # fmt: skip
        return sorted(patch.tobytes() for patch in cut)

    made = shuffled_patches(images, random)
    assert [patches(image) for image in made] == [patches(image) for image in images]
    assert not np.array_equal(made, images)


def test_moved_images_are_the_same_inside(images: np.ndarray, random: np.random.Generator) -> None:
    step = images.shape[-1] // 8
    made = moved(images, random)
    assert np.array_equal(made[..., step:, step:], images[..., :-step, :-step])
    assert np.array_equal(made[..., :step, step:], images[..., :1, :-step].repeat(step, axis=-2))


def test_changes_of_no_size_change_nothing(images: np.ndarray, random: np.random.Generator) -> None:
    for change, arguments in (
        (noisy, {"levels": 0}),
        (contrast, {"factor": 1}),
        (saturation, {"factor": 1}),
        (towards_mean, {"share": 0}),
        (checkerboard, {"levels": 0}),
        (quantised, {"bits": 8}),
    ):
        assert np.array_equal(change(images, random, **arguments), images), change


def test_the_size_of_a_change(images: np.ndarray, random: np.random.Generator) -> None:
    def shift(made: np.ndarray) -> np.ndarray:
        return made.astype(float) - images

    assert shift(noisy(images, random, levels=10)).std() == pytest.approx(10, rel=0.05)
    board = shift(checkerboard(images, random, levels=4))
    assert set(np.unique(board)) == {-4, 4}
    assert np.array_equal(board[..., 1:], -board[..., :-1])
    deviation = contrast(images, random, factor=0.9).std(axis=(1, 2, 3))
    assert deviation == pytest.approx(0.9 * images.std(axis=(1, 2, 3)), rel=0.01)
    away = towards_mean(images, random, share=0.25) - images.mean(axis=0)
    assert away == pytest.approx(0.75 * (images - images.mean(axis=0)), abs=0.51)
    assert len(np.unique(quantised(images, random, bits=3))) <= 8


def test_colours(random: np.random.Generator) -> None:
    colours = random.integers(60, 190, (9, 3, 4, 4), dtype=np.uint8)
    grey = saturation(colours, random, factor=0)
    assert np.array_equal(grey[:, 0], grey[:, 1])
    assert np.array_equal(hue(grey, random, degrees=30), grey)
    assert np.array_equal(hue(colours, random, degrees=360), colours)
    third = hue(colours, random, degrees=120)
    assert np.array_equal(third, np.roll(colours, 1, axis=1))


def test_halves_and_blurs(images: np.ndarray, random: np.random.Generator) -> None:
    middle = images.shape[-1] // 2
    made = half_of_another(images, random)
    assert np.array_equal(made[..., :middle], images[..., :middle])
    assert rows(made[..., middle:]) == rows(images[..., middle:])
    assert not rows(made) & rows(images)
    blurred = through_pillow(images, random, blur)
    assert blurred.std() < 0.7 * images.std()
    assert blurred.mean() == pytest.approx(images.mean(), abs=1)


def test_classes_have_the_shares_that_are_said(material: Material) -> None:
    label_of = {
        image.tobytes(): label for image, label in zip(material.fresh, material.labels, strict=True)
    }

    def counted(name: str, count: int) -> list[int]:
        made = [label_of[image.tobytes()] for image in planted(name, material, count)]
        return np.bincount(made, minlength=4).tolist()

    assert counted("one class", COUNT) == [10, 0, 0, 0]  # there are no more
    assert counted("half of the classes", 20) == [10, 10, 0, 0]
    assert counted("one class missing", 30) == [0, 10, 10, 10]
    assert counted("one class four times as often", 14) == [8, 2, 2, 2]


def test_copies_are_copies(material: Material) -> None:
    training, fresh = rows(material.training), rows(material.fresh)
    assert rows(planted("copies of training images", material)) <= training
    assert rows(mirrored(planted("copies, mirrored", material), None)) <= training
    assert rows(planted("copies of the reference", material)) <= rows(material.reference)
    tenth = [image.tobytes() for image in planted("1 image in 10 is a copy", material)]
    assert sum(image in training for image in tenth) == 4
    assert sum(image in fresh for image in tenth) == 36
    near = planted("copies with noise of 2 grey levels", material).astype(float)
    assert (near - material.training).std() == pytest.approx(2, rel=0.1)
    assert len(rows(planted("each image ten times", material))) == 4
    assert len(rows(planted("each image twice", material))) == 20
