"""The calibration tells a missed defect, and its page says what its results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from calibration import (
    PAGE,
    RESULTS,
    SCORES,
    SIZES,
    faults,
    finished,
    intervals,
    main,
    section,
    told_by,
)
from planted import COLOUR_ONLY, PERFECT, PLANTED

QUIET = {f"{score}_z": 3.9 for score in SCORES} | {"memorisation_suspected": False}


def data(name: str, planted: str, told: list[str], size: int = 2000) -> dict[str, Any]:
    return {name: {"sizes": {str(size): {"cells": {planted: {"told_by": told}}}}}}


def test_told_is_beyond_four_deviations_on_either_side() -> None:
    assert told_by(QUIET) == []
    assert told_by({**QUIET, "kid_z": 4.1, "mind_z": -4.1}) == ["mind", "kid"]
    assert told_by({**QUIET, "recall_z": 50.0}) == []  # it decides nothing
    assert told_by({**QUIET, "memorisation_suspected": True}) == ["copies"]


def test_faults_are_unlisted_defects_that_nothing_tells_and_real_images_that_are_told() -> None:
    assert faults(data("photos", "sharpened", ["mind"])) == []
    assert faults(data("photos", "sharpened", [])) == [
        "photos, n = 2000: sharpened is told by nothing"
    ]
    assert faults(data("photos", "sharpened", [], size=500)) == []
    assert faults(data("photos", "mirrored", [])) == []  # listed
    assert faults(data("fashion", "mirrored", [])) != []  # not listed there
    assert faults(data("photos", PERFECT, [])) == []
    assert "real images are told by kid" in faults(data("photos", PERFECT, ["kid"]))[0]


def test_results_of_another_protocol_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert finished(path, {}) == {}
    kept = {"digits": {"protocol": {"seed": 0}, "sizes": {}}}
    path.write_text(json.dumps({"data": kept}))
    assert finished(path, {"digits": {"seed": 0}}) == kept
    assert finished(path, {"digits": {"seed": 1}}) == {}


def test_photos_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--photos" in capsys.readouterr().err


def test_the_page_says_what_the_results_say() -> None:
    result = json.loads((RESULTS / "calibration.json").read_text())
    assert section(result) in PAGE.read_text()
    of_intervals = RESULTS / "score_coverage.json"
    assert intervals(json.loads(of_intervals.read_text())) in PAGE.read_text()


def test_the_results_are_of_everything_that_is_planted() -> None:
    result = json.loads((RESULTS / "calibration.json").read_text())
    for data, part in result["data"].items():
        planted = set(PLANTED) - (set() if data == "photos" else COLOUR_ONLY)
        assert {size: set(of["cells"]) for size, of in part["sizes"].items()} == {
            str(size): planted for size in SIZES[data]
        }
        for of_size in part["sizes"].values():
            for cell in of_size["cells"].values():
                assert cell["told_by"] == told_by(cell)
