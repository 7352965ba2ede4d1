"""What each name at a module's top is made by, read from its text alone."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

ALWAYS = "*"  # in a table: star imports, and what runs and defines nothing
_SCRIPT = "__main__"  # there too: what runs only where the module is run by its name
_PREVIEWS = {"ImagePreview", "JSONPreview", "PlotlyPreview", "TablePreview"}
_WORD = re.compile(r"^[A-Za-z_][\w/-]*(?:\.\w+)+$")


@dataclass(frozen=True)
class Import:
    """What its name stands for: (2, ("a", "b")) in `from ..a import b`."""

    level: int
    path: tuple[str, ...]


@dataclass
class Definition:
    """One statement at a module's top, and what it names."""

    shape: str = ""
    """The statement, written down."""
    chains: set[tuple[str, ...]] = field(default_factory=set)
    """Each name with the attributes behind it: `a.b.c`."""
    imports: set[tuple[str, Import]] = field(default_factory=set)
    """Those inside it: what they bind is its own."""
    words: set[str] = field(default_factory=set)
    """Text that may be a dotted path, or the name of a file beside the module."""


Table = dict[str, list[Import | ast.stmt]]


@functools.cache
def table_of(text: bytes) -> Table:
    """What each name at a module's top is made by, in the order of the statements."""
    table: Table = defaultdict(list)
    body = [statement for statement in ast.parse(text).body if not _is_text(statement)]
    for statement in _within(body):
        for name, entry in _imports(statement):
            table[name].append(entry)
    imported = set(table)
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        defined = [(name, part) for part in _within([statement]) for name in _defined(part)]
        defined = [(name, part) for name, part in defined if name not in imported]
        test = ast.unparse(statement.test) if isinstance(statement, ast.If) else ""
        for_types, for_scripts = "TYPE_CHECKING" in test, "__name__" in test
        for name, part in defined:
            table[name].append(part if for_types else statement)
        if all(part is not statement for _, part in defined) and not for_types:
            table[_SCRIPT if for_scripts else ALWAYS].append(statement)
    return dict(table)


def _within(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements and those in their blocks, but not what functions and classes hold."""
    for statement in statements:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            blocks = ast.stmt | ast.excepthandler | ast.match_case
            children = ast.iter_child_nodes(statement)
            yield from _within(child for child in children if isinstance(child, blocks))


def _defined(statement: ast.AST) -> Iterator[str]:
    """The names that one statement defines or changes: of `TABLE["x"] = 1` TABLE."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                while isinstance(part, ast.Attribute | ast.Subscript | ast.Starred):
                    part = part.value
                if isinstance(part, ast.Name):
                    yield part.id


def _imports(statement: ast.AST) -> Iterator[tuple[str, Import]]:
    """The names that an import binds."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            path = tuple(alias.name.split("."))
            yield alias.asname or path[0], Import(0, path if alias.asname else path[:1])
    elif isinstance(statement, ast.ImportFrom):
        module = tuple(statement.module.split(".")) if statement.module else ()
        for alias in statement.names:
            path = module if alias.name == "*" else (*module, alias.name)
            yield alias.asname or alias.name, Import(statement.level, path)


@functools.cache
def read(statement: ast.stmt) -> Definition:
    """A statement, written down as by `ast.dump` but the same in every Python: without what is
    empty, positions, docstrings and what only Kedro-Viz calls."""
    found, shape = Definition(), []

    def add(node: Any) -> None:
        if chain := _chain(node):
            found.chains.add(chain)
            shape.append(".".join(chain))
        elif isinstance(node, ast.Constant):
            found.words.update(_WORD.findall(node.value) if isinstance(node.value, str) else ())
            shape.append(repr(node.value))
        elif isinstance(node, ast.AST):
            found.imports.update(_imports(node))
            shape.append(f"{type(node).__name__}(")
            for name, value in ast.iter_fields(node):
                if name in ("annotation", "returns"):  # "Model", quoted, is a name too
                    found.chains.update(_quoted(value))
                if value is not None and value != []:
                    shape.append(f"{name}=")
                    for item in value if isinstance(value, list) else [value]:
                        if not (_is_text(item) or _is_preview(item)):
                            add(item)
                            shape.append(",")
            shape.append(")")
        else:
            shape.append(repr(node))

    add(statement)
    found.shape = "".join(shape)
    return found


def _quoted(annotation: ast.AST | None) -> Iterator[tuple[str]]:
    """The words in the text within an annotation."""
    for part in ast.walk(annotation) if annotation else ():
        if isinstance(part, ast.Constant):
            yield from ((word,) for word in re.findall(r"\w+", str(part.value)))


def _chain(node: ast.AST) -> tuple[str, ...]:
    """The names in `a.b.c`; none of what is not just names."""
    if isinstance(node, ast.Name):
        return (node.id,)
    front = _chain(node.value) if isinstance(node, ast.Attribute) else ()
    return (*front, node.attr) if front else ()


def _is_preview(node: Any) -> bool:
    """Whether it is a dataset's picture of itself, told by the type that Kedro-Viz knows it by."""
    is_function = isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name)
    return is_function and node.returns.id in _PREVIEWS


def _is_text(node: Any) -> bool:
    """Whether it is a docstring, of a field too, or another constant that nothing is done with."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
