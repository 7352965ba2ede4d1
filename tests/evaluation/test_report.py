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
from PIL import Image
from two_classes import Constant, drawn, image_set, judged

from ddpm_kedro.diffusion.denoiser import Denoiser
from ddpm_kedro.diffusion.noise_schedule import CosineSchedule
from ddpm_kedro.diffusion.objective import VPrediction
from ddpm_kedro.evaluation.curves import figure
from ddpm_kedro.evaluation.report import MOST_PREVIEWS, flattened, readable, render_report
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
    for name in metrics:
        assert f"<code>{name}</code>" in page

    assert "6 principal components" in page


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
