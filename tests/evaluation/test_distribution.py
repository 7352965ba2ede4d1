from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation import standing
from ddpm_kedro.evaluation.distribution import SCORES, distribution_scores
from ddpm_kedro.evaluation.mind import mind
from ddpm_kedro.evaluation.standing import Standing


def gaussian(generator: np.random.Generator, count: int, size: int = 8) -> np.ndarray:
    return generator.standard_normal((count, size)).astype(np.float32)


def judged(
    generator: np.random.Generator, count: int = 60, change: float = 1.0, **options: object
) -> dict[str, Standing]:
    """Scores of Gaussian samples, `change` times as wide as the real ones."""
    sets = (gaussian(generator, size) for size in (count, count, 5 * count))
    samples, reference, real = sets
    return distribution_scores(change * samples, reference, real, **options)


def test_equal_distributions_stand_at_the_floor_and_the_interval_holds_it() -> None:
    found = [judged(np.random.default_rng(seed), seed=seed) for seed in range(24)]
    for name in SCORES:
        scores = [one[name] for one in found]
        z = np.array([score.z for score in scores])
        assert abs(z.mean()) < 3 * 1.1 / np.sqrt(len(z)), name
        assert 0.75 < z.std(ddof=1) < 1.4, name
        held = [abs(score.value - score.floor) <= score.interval for score in scores]
        assert np.mean(held) >= 0.85, name


def test_kid_has_its_standard_error_beside_it() -> None:
    # Away from the floor it is what the interval is made of, but for the floor's own error.
    kid = judged(np.random.default_rng(0), 500, 1.6)["kid"]
    assert 0.9 * kid.interval < 1.96 * kid.extras["std_error"] <= kid.interval
    assert kid.metrics("kid")["kid_std_error"] == kid.extras["std_error"]


@pytest.mark.parametrize("change", [0.6, 1.6])
def test_other_distributions_are_worse_in_every_score_that_sees_them(change: float) -> None:
    found = judged(np.random.default_rng(0), 500, change)
    sees = ("mind", "kid", "frechet", "recall" if change < 1 else "coverage")
    assert {found[name].word for name in sees} == {"far"}
    assert all(found[name].z > 10 for name in sees)


def test_the_order_of_the_images_and_the_names_asked_for_change_nothing() -> None:
    generator = np.random.default_rng(1)
    samples, reference, real = (gaussian(generator, size) for size in (50, 50, 250))
    whole = distribution_scores(samples, reference, real, seed=3)
    for name in SCORES:
        alone = distribution_scores(samples, reference[::-1], real, seed=3, names=[name])
        assert list(alone) == [name]
        assert alone[name].value == pytest.approx(whole[name].value, rel=1e-4, abs=1e-5)
        assert alone[name].interval == pytest.approx(whole[name].interval, rel=1e-3)


def test_frechet_has_the_plain_distance_and_the_closed_form_beside_it() -> None:
    found = judged(np.random.default_rng(2))["frechet"]
    metrics = found.metrics("frechet")
    assert metrics["frechet_at_n"] > metrics["frechet_closed_form"] == metrics["frechet"]
    assert metrics["frechet_ratio"] == pytest.approx(1, abs=0.5)


def test_choosing_the_best_of_equal_checkpoints_does_not_flatter_its_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Twenty equal checkpoints, the best of them by a quick score of few samples with a reference of
    # its own; the winner is scored afresh.
    monkeypatch.setattr(standing, "RESAMPLES", 2)  # no interval is looked at
    quick, afresh = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        reference = gaussian(generator, 40)
        scores = [mind(gaussian(generator, 40), reference) for _ in range(20)]
        quick.append((min(scores) - np.mean(scores)) / np.std(scores))
        afresh.append(judged(generator, names=["mind"])["mind"].z)
    assert np.mean(quick) < -1.3  # what the quick score would claim
    assert abs(np.mean(afresh)) < 3 * np.std(afresh) / np.sqrt(len(afresh))


def wrong_sets(which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    samples, reference, real = (gaussian(generator, size) for size in (20, 20, 60))
    if which == "nan":
        samples[3, 2] = np.nan
    elif which == "one":
        samples = samples[:1]
    elif which == "width":
        real = real[:, :5]
    elif which == "reference":
        reference = reference[:19]
    elif which == "pool":
        real = real[:39]
    return samples, reference, real


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("nan", "samples: features of 1 of 20 images are NaN or infinite, the first is image 3"),
        ("one", "samples: a score needs features .* of at least 2 images, not .1, 8."),
        ("width", "features of 8 and 5 numbers .samples and real. cannot be compared"),
        ("reference", "20 samples, a reference of 19 and 60 other real images"),
        ("pool", "20 samples, a reference of 20 and 39 other real images"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(which: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        distribution_scores(*wrong_sets(which))
    assert "\n" not in str(caught.value)
