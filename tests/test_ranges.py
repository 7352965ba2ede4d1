"""What each kind of value takes, and the words with which it refuses the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from ddpm_kedro import ranges
from ddpm_kedro.errors import InputError
from ddpm_kedro.ranges import Count, Positive, Settings, checked

INFINITE = float("inf")
OPTION = {"type": "torch.optim.Adam"}
TAKEN: dict[str, list[tuple[Any, Any]]] = {
    "Count": [(1, 1), (7.0, 7), ("7", 7), (10**30, 10**30)],
    "CountOrZero": [(0, 0)],
    "Positive": [(1e-9, 1e-9), (3, 3.0), ("2.5", 2.5)],
    "NotNegative": [(0, 0.0)],
    "Share": [(0, 0.0), (0.999, 0.999)],
    "Seed": [(0, 0), (2**63 - 1, 2**63 - 1)],
    "Switch": [(True, True), (0, False), ("yes", True), ("off", False)],
    "Text": [("", ""), ("two\nlines", "two\nlines")],
    "Precision": [("auto", "auto"), ("fp16", "fp16")],
    "Device": [("cuda:1", "cuda:1"), ("mps", "mps")],
    "Table": [({}, {})],
    "Option": [(OPTION, OPTION)],
}
REFUSED: dict[str, list[tuple[Any, str]]] = {
    "Count": [
        (0, "input should be greater than or equal to 1"),
        (True, "give a number"),
        (1.5, "input should be a valid integer, got a number with a fractional part"),
        ("many", "input should be a valid integer, unable to parse string as an integer"),
        (None, "input should be a valid integer"),
        (INFINITE, "input should be a finite number"),
        (float("nan"), "input should be a finite number"),
    ],
    "CountOrZero": [(-1, "input should be greater than or equal to 0")],
    "Positive": [
        (0, "input should be greater than 0"),
        (False, "give a number"),
        ("much", "input should be a valid number, unable to parse string as a number"),
        ([], "input should be a valid number"),
        ("inf", "input should be a finite number"),
        (10**400, "input should be a finite number"),
    ],
    "NotNegative": [(-1e-9, "input should be greater than or equal to 0")],
    "Share": [(1, "input should be less than 1")],
    "Seed": [(2**63, "input should be less than 9223372036854775808")],
    "Switch": [("perhaps", "input should be a valid boolean"), (2, "valid boolean")],
    "Text": [(5, "input should be a valid string")],
    "Precision": [("fp8", "input should be 'auto', 'fp32', 'bf16' or 'fp16'")],
    "Device": [("cuda:x", "choose one of auto, cpu"), (["cpu"], "input should be a valid string")],
    "Table": [("DDIM", "input should be a valid dictionary")],
    "Option": [({"lr": 1}, "needs a type, the dotted path of a class")],
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_taken_is_kept_in_its_type(kind: str) -> None:
    for value, expected in TAKEN[kind]:
        kept = checked(getattr(ranges, kind), value)
        assert (type(kept), kept) == (type(expected), expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_told_what_would_be_right(kind: str) -> None:
    for value, words in REFUSED[kind]:
        with pytest.raises(ValueError, match=words):
            checked(getattr(ranges, kind), value)


@dataclass(frozen=True)
class Inner(Settings):
    section: ClassVar[str] = "outer.inner"
    rate: Positive


@dataclass(frozen=True)
class Outer(Settings):
    section: ClassVar[str] = "outer"
    count: Count | None
    inner: Inner


def test_settings_inside_settings_may_be_given_as_a_table() -> None:
    outer = Outer(count=None, inner={"rate": "0.5"})
    assert outer == Outer(count=None, inner=Inner(rate=0.5))
    for wrong, said in (
        ({"count": 0}, "outer.count=0: input should be greater than or equal to 1"),
        ({"inner": {"rate": 0}}, "outer.inner.rate=0: input should be greater than 0"),
        ({"inner": 5}, "outer.inner=5: input should be a dictionary or an instance of Inner"),
        ({"inner": {"rat": 1}}, "outer.inner={'rat': 1}: "),
    ):
        with pytest.raises(InputError) as refused:
            replace(outer, **wrong)
        assert str(refused.value).startswith(said)
