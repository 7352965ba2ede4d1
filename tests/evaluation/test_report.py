from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from two_classes import Constant, drawn, image_set, judged

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.objective import VPrediction
from ddpm_kedro.evaluation.curves import figure
from ddpm_kedro.evaluation.metric_names import TITLES
from ddpm_kedro.evaluation.report import (
    MOST_PREVIEWS,
    flattened,
    plus_minus,
    readable,
    render_report,
)
from ddpm_kedro.evaluation.verdict import training_facts, verdict
from ddpm_kedro.images.grid import make_grid
from ddpm_kedro.images.imageset import ImageSet

LOG = [
    {"step": n, "images_seen": 100 * n, "loss": 1 / n, "elapsed_seconds": 2.0 * n}
    | {"images_per_second": 50.0, "lr": 0.1}
    for n in range(1, 9)
]
MODEL = {
    "backbone": {"type": "ddpm_kedro.diffusion.backbones.CompactUNet", "base_channels": 32},
    "classes": ["<b>bold</b>"],
    "loss_weight": None,
    "provenance": {"optimizer": {"type": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}},
}


SCORED = {"features": "efficientnet_lite0 96px", "reference": "30 held-out images", "stamp": "3f9a"}


def standing(name: str, value: float, **changes: Any) -> dict[str, Any]:
    """Metrics of one score, as an evaluation has them."""
    parts = {"floor": 10.0, "floor_std": 0.5, "interval": 1.5, "z": 2 * (value - 10), "ratio": None}
    parts |= {"verdict": "far"} | changes
    return {name: value} | {f"{name}_{part}": number for part, number in parts.items()}


def unscored(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith(tuple(TITLES))}


@pytest.fixture
def page() -> str:
    return rendered()


def rendered(train: ImageSet | None = None, **changes: Any) -> str:
    train = train or image_set(600, seed=1)
    samples = drawn(30, seed=3)[0]
    metrics, diagnostics = judged(samples, train=train)
    arguments: dict[str, Any] = {
        "training_log": LOG,
        "previews": {100 * n: make_grid(samples[:4]) for n in range(1, 11)},
        "metrics": metrics,
        "diagnostics": {**diagnostics, "model": MODEL},
    }
    return render_report(samples, train, **(arguments | changes))


class Tags(HTMLParser):
    """Fails on a tag that is closed in the wrong order or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in page.lower()
    for name, value in parser.attributes:
        if name in ("src", "href"):
            assert value.startswith("data:image/png;base64,")
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    assert "@import" not in page
    assert "url(" not in page


def test_pictures_hold_the_samples(page: str) -> None:
    data = re.findall(r'alt="Samples" src="data:image/png;base64,([^"]+)"', page)
    picture = Image.open(io.BytesIO(base64.b64decode(data[0])))
    expected = make_grid(drawn(30, seed=3)[0])
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_charts_are_well_formed_and_escape_names() -> None:
    metrics, diagnostics = judged(drawn(30, seed=3)[0])
    names = {"<script>": ([1, 2], [3, 4]), "one": ([1], [2])}
    diagnostics["figures"] = {
        "nearest_training": figure("a < b & c", "x", "y", names),
        "denoising": figure("empty", "x", "y", {"none": ([], [])}),
    }
    page = rendered(metrics=metrics, diagnostics=diagnostics)
    assert "<script>" not in page
    assert "No points yet" in page
    svg = page[page.index('<svg viewBox="0 0 640') :]
    svg = svg[svg.index('<svg viewBox="0 0 640', 1) : svg.index("</figure>", svg.index("a &lt; b"))]
    chart = ElementTree.fromstring(svg)
    assert chart.get("aria-label") == "a < b & c"
    assert [path.get("class") for path in chart.iter("path")] == ["line c0", "line c1 dot"]


def test_every_metric_stands_in_it_with_its_meaning(page: str) -> None:
    metrics, _ = judged(drawn(30, seed=3)[0])
    for name in unscored(metrics).keys() - {"verdict"}:
        assert f"<code>{name}</code>" in page

    assert metrics["features"] in page


def test_the_verdict_comes_first(page: str) -> None:
    metrics, _ = judged(drawn(30, seed=3)[0])
    said = metrics.get("verdict") or verdict(metrics, training_facts(LOG, {}, "ema"))
    assert str(escape(said)) in page
    assert page.index(str(escape(said))) < page.index('<div class="cards">')
    # What the evaluation said stands, whatever the log would add.
    judged_already, diagnostics = (
        metrics | {"verdict": "Good > bad."},
        judged(drawn(30, seed=3)[0])[1],
    )
    assert "<p>Good &gt; bad.</p>" in rendered(metrics=judged_already, diagnostics=diagnostics)


def test_each_score_stands_beside_what_real_images_score() -> None:
    metrics, diagnostics = judged(drawn(30, seed=3)[0])
    metrics = unscored(metrics) | SCORED
    metrics |= standing("mind", 1234.5, interval=20.0, ratio=123.45) | standing("coverage", 0.5)
    diagnostics["evaluated"] = {
        "stamp": {"stamp": "3f9a", "features": "lite <0>", "versions": {"torch": "2.15"}}
    }
    page = rendered(metrics=metrics, diagnostics=diagnostics)
    table = page[page.index('<table class="scores">') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 1 + 2
    assert "Fréchet distance of pixels" not in table
    for text in ("1,234 ± 20", "10.00 ± 0.50", ">123<", ">2,449<", 'class="word warn">far'):
        assert text in table
    assert table.count('data-name="times"></td>') == 1  # coverage has no ratio
    assert "compared with\n30 held-out images by efficientnet_lite0 96px" in page
    assert "of the same\nstamp 3f9a; features lite &lt;0&gt;; versions.torch 2.15." in page
    assert "<b>123\u00d7</b><span>MIND of real images" in page

    assert "<code>mind</code>" in page
    assert "<code>mind_z</code>" not in page  # the table has it
    both = rendered(metrics=metrics | standing("pixels_frechet", 11.0), diagnostics=diagnostics)
    assert "Fréchet distance of pixels" in both


def test_metrics_of_another_version_get_their_page_too() -> None:
    metrics, diagnostics = judged(drawn(30, seed=3)[0])
    del metrics["verdict"]
    metrics = unscored(metrics) | {"a_score_of_old": 3.0, "mind": None, "mind_z": None}
    page = rendered(metrics=metrics, diagnostics=diagnostics)
    assert '<table class="scores">' not in page
    assert "could not be measured" in page
    assert "<code>a_score_of_old</code>" in page


def test_the_score_while_training_stands_beside_the_loss(page: str) -> None:
    assert "Score while training" not in page
    log = [record | {"quick_score": 100 / n} for n, record in enumerate(LOG, start=1)]
    scored = rendered(training_log=log)
    assert scored.index("Loss while training") < scored.index("Score while training")


def test_mirrored_neighbours_are_marked() -> None:
    metrics, diagnostics = judged(drawn(30, seed=3)[0])
    for place, pair in enumerate(diagnostics["closest"]):
        pair |= {"grey_levels": 4.25, "mirrored": place == 1}
    marked = rendered(metrics=metrics, diagnostics=diagnostics)
    assert marked.count("<figcaption>4.25 apart, mirrored</figcaption>") == 1
    assert marked.count("<figcaption>4.25 apart</figcaption>") == len(diagnostics["closest"]) - 1


def test_every_picture_says_what_it_is(page: str) -> None:
    for tag in re.findall(r"<(?:img|svg)[^>]*>", page):
        if tag.startswith("<img"):
            assert re.search(r'alt="[^"]+"', tag)
        elif "role" in tag:
            assert re.search(r'aria-label="[^"]+"', tag)


def test_what_was_trained_stands_in_it_escaped(page: str) -> None:
    assert "SGD(lr=0.1, momentum=0.9)" in page
    assert "CompactUNet(base_channels=32)" in page
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page
    assert "loss_weight" not in page  # it was not set


def test_previews_are_thinned_to_first_and_last(page: str) -> None:
    captions = re.findall(r"<figcaption>after (\S+) images", page)
    assert len(captions) == MOST_PREVIEWS
    assert (captions[0], captions[-1]) == ("100", "1k")


def test_it_is_a_function_of_its_data(page: str) -> None:
    assert rendered() == page


def test_little_data_make_a_shorter_page() -> None:
    bare = ImageSet(drawn(50, seed=1)[0])
    metrics, diagnostics = judged(drawn(30, seed=3)[0], train=bare)
    page = rendered(bare, training_log=[], previews={}, metrics=metrics, diagnostics=diagnostics)
    assert "There is no training log of this model" in page
    assert "Classes among" not in page
    assert "What was trained" not in page
    assert "the training images have no labels" in page


def test_a_diverged_model_gets_its_page_too() -> None:
    broken = Denoiser(Constant(float("nan")), CosineSchedule(), VPrediction())
    metrics, diagnostics = judged(drawn(30, seed=3)[0], denoiser=broken)
    assert metrics["denoising_loss_held_out"] is None
    assert metrics["skipped_denoising_loss_held_out"] == "it came out as nan"
    json.dumps([metrics, diagnostics], allow_nan=False)
    page = rendered(metrics=metrics, diagnostics=diagnostics)
    assert "not defined" in page
    assert "it came out as nan" in page


def test_a_model_from_elsewhere_was_not_trained_on_these_images() -> None:
    metrics, diagnostics = judged(drawn(30, seed=3)[0])
    diagnostics["model"] = {**MODEL, "provenance": {"imported_from": "diffusers"}}
    page = rendered(metrics=metrics, diagnostics=diagnostics)
    assert "CompactUNet imported from diffusers and compared with 600 images" in page


def test_leaves_of_nested_facts() -> None:
    option = {"type": "x.Y", "sizes": [1, 2], "steps": 1000, "z": {"type": "x.W"}}
    tree = {"a": {"b": 1, "c": option}, "d": None, "e": [1000, True], "f": []}
    assert list(flattened(tree)) == [
        ("a.b", "1"),
        ("a.c", "Y(sizes=[1, 2], steps=1000, z=W())"),
        ("e", "1,000, yes"),
    ]


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (236.4321, 8.2, "236.4 ± 8.2"),
        (1234.5, 20.0, "1,234 ± 20"),
        (-0.0007, 0.00131, "-0.0007 ± 0.0013"),
        (0.5, 0.0, "0.500 ± 0.000"),
    ],
)
def test_a_value_has_the_decimals_that_its_spread_leaves(
    value: float, spread: float, text: str
) -> None:
    assert plus_minus(value, spread) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (2412.3, "2,412"),
        (None, "not defined"),
        ("adam", "adam"),
    ],
)
def test_values_read_well(value: Any, text: str) -> None:
    assert readable(value) == text
