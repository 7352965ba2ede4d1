"""One dialect: docstrings are prose with names in single backticks; logging fills in its words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ddpm_kedro"
MODULES = [
    pytest.param(path, id=path.relative_to(PACKAGE).as_posix())
    for path in sorted(PACKAGE.rglob("*.py"))
]

FOREIGN = {
    "a section": re.compile(r"^\s*(Args|Arguments|Attributes|Raises|Returns|Yields)\s*:\s*$", re.M),
    "double backticks": re.compile("``"),
    "a role": re.compile(r":[a-z:]+:`"),
}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def foreign(text: str) -> list[str]:
    """What in docstrings, also those below fields, and in comments is of another dialect."""
    said = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    said += [line for line in text.splitlines() if line.lstrip().startswith("#")]
    return [name for name, pattern in FOREIGN.items() for each in said if pattern.search(each)]


def assembled(text: str) -> Iterator[int]:
    """The lines of calls of a logger whose words are put together before it sees them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            logger = ast.unparse(node.func.value).lower()
            logs = node.func.attr in LEVELS and ("logger" in logger or logger == "logging")
            if logs and not isinstance(node.args[0], ast.Constant | ast.Name):
                yield node.lineno


@pytest.mark.parametrize("path", MODULES)
def test_docstrings_are_prose(path):
    assert foreign(path.read_text()) == []


@pytest.mark.parametrize("path", MODULES)
def test_logging_fills_in_its_words(path):
    assert list(assembled(path.read_text())) == []


def test_what_is_foreign_is_seen():
    assert foreign('def f():\n    """F.\n\n    Returns:\n        One.\n    """') == ["a section"]
    assert foreign('"""See :class:`F`."""\nx = 1\n"""``x``"""\n# ``y``') == [
        "double backticks",
        "double backticks",
        "a role",
    ]
    assert list(assembled('LOGGER.info(f"{x}")\nLOGGER.info("%s", x)')) == [1]
    assert list(assembled('logging.getLogger("a").warning("a" + b)\nself.log.say(f"{x}")')) == [1]
