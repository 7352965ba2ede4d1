"""Which code makes a result: the definitions that a function or class reaches, in a few digits.

By syntax tree, so that nothing is imported to find out, and comments, docstrings and layout count
for nothing. Definition by definition: what else stands in their modules counts for nothing either.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ddpm_kedro
from ddpm_kedro.errors import InputError

_DIGITS = 12
_ALWAYS = "*"  # in a module's table: star imports, and what runs and defines nothing
_SCRIPT = "__main__"  # there too: what runs where a module is run by its name
_INSTALLED = {"site-packages", "dist-packages"}
_MODULE_ENDS = ("/__init__.py", ".py", "/")  # the last without the first: a namespace
_WORD = re.compile(r"[A-Za-z_][\w-]*(\.\w+)+")  # text that may be a dotted path or a file's name


def code_digest(roots: Iterable[str], source: Path | None = None) -> dict[str, str]:
    """What the functions and classes `roots`, dotted paths, are made of: of each module of the
    project 12 hexadecimal digits over the definitions in it that they reach, of each library the
    version that is installed.

    The project is this package and every module that is neither Python's own nor installed;
    `source` is a folder where modules are looked for first. A root that is not found is left out.
    InputError where a module is no Python.
    """
    closure = _Closure(source)
    for root in roots:
        closure.reach(tuple(root.split(".")), named=True)
    closure.finish()
    digests = {
        module: hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:_DIGITS]
        for module, shapes in closure.shapes.items()
    }
    versions = {name: _version(name) for name in closure.libraries}
    return dict(sorted((digests | {name: of for name, of in versions.items() if of}).items()))


@dataclass(frozen=True)
class _Import:
    """What its name stands for: (2, ("a", "b")) in `from ..a import b`."""

    level: int
    path: tuple[str, ...]


@dataclass
class _Definition:
    """One statement at a module's top."""

    shape: str = ""
    chains: set[tuple[str, ...]] = field(default_factory=set)
    """Each name with the attributes behind it: `a.b.c`."""
    imports: set[tuple[str, _Import]] = field(default_factory=set)
    """Those inside it, which are its own."""
    words: set[str] = field(default_factory=set)


_Table = dict[str, list[_Import | ast.stmt]]


class _Closure:
    """What is reached so far: `shapes` of the names of each module, and `libraries`."""

    def __init__(self, source: Path | None) -> None:
        self.source = source
        self.shapes: dict[str, dict[str, str]] = defaultdict(dict)
        self.libraries: set[str] = set()
        self._left: list[tuple[str, str, tuple[str, ...]]] = []
        self._files: dict[str, Path | None] = {}
        self._tables: dict[str, _Table] = {}

    def reach(self, path: tuple[str, ...], *, named: bool = False) -> None:
        """Note what an absolute path leads to: the whole of a module where it ends there, or goes
        on to what nobody finds; but nothing then where text just `named` it."""
        if path[0] == ddpm_kedro.__name__ and (home := ddpm_kedro.PUBLIC.get("".join(path[1:2]))):
            path = (path[0], *home.split("."), *path[1:])
        module, *names = path
        if module in sys.stdlib_module_names:
            return
        if self._file(module) is None:
            self.libraries.add(module)
            return
        while names:
            name, *names = names
            if is_there := name in self._table(module):
                self._left.append((module, name, tuple(names)))
            if self._file(f"{module}.{name}") is None:
                if is_there or name.startswith("__") or (named and name != "<lambda>"):
                    return
                break
            module = f"{module}.{name}"
        self._left += [(module, name, ()) for name in self._table(module)]

    def finish(self) -> None:
        """Follow everything noted to its end."""
        seen = set()
        while self._left:
            if (item := self._left.pop()) not in seen:
                seen.add(item)
                self._take(*item)

    def _take(self, module: str, name: str, rest: tuple[str, ...]) -> None:
        table, is_first = self._table(module), name not in self.shapes[module]
        shapes = []
        for entry in table[name]:
            if isinstance(entry, _Import):
                shapes.append(repr(entry))
                self.reach(self._absolute(module, entry) + rest)
            else:
                definition = _read(entry)
                shapes.append(definition.shape)
                if is_first:
                    shapes += self._follow(module, definition)
        if is_first:
            self.shapes[module][name] = "\n".join(shapes)
        if _ALWAYS in table:
            self._left.append((module, _ALWAYS, ()))

    def _follow(self, module: str, definition: _Definition) -> Iterator[str]:
        """Reach what a definition names; yield the content of files beside its module."""
        for first, *rest in definition.chains:
            if first in self._table(module):
                self._left.append((module, first, tuple(rest)))
            for name, entry in definition.imports:
                if name == first:
                    self.reach((*self._absolute(module, entry), *rest))
        for word in sorted(definition.words):
            path = tuple(word.split("."))
            if path[0] in (module.partition(".")[0], ddpm_kedro.__name__):
                self.reach(path, named=True)
            elif (beside := self._file(module).parent / word).is_file():
                yield hashlib.sha256(beside.read_bytes()).hexdigest()

    def _absolute(self, module: str, entry: _Import) -> tuple[str, ...]:
        if not entry.level:
            return entry.path
        package = module.split(".") + [""] * (self._file(module).name == "__init__.py")
        return (*package[: -entry.level], *entry.path)

    def _table(self, module: str) -> _Table:
        if module not in self._tables:
            path = self._file(module)
            try:
                self._tables[module] = _parsed(b"" if path.is_dir() else path.read_bytes())
            except (SyntaxError, ValueError) as error:
                raise InputError(f"{path} is no Python: {error}") from error
        return self._tables[module]

    def _file(self, module: str) -> Path | None:
        """The file of a module of the project, or the folder of a package without one."""
        if module not in self._files:
            parent, _, name = module.rpartition(".")
            above = self._file(parent) if parent else None
            if above is None:
                folders = [self.source] * (self.source is not None) + _folders_of(name)
            else:
                folders = [above.parent if above.name == "__init__.py" else above]
            files = [folder / f"{name}{end}" for folder in folders for end in _MODULE_ENDS]
            self._files[module] = next((path for path in files if path.exists()), None)
        return self._files[module]


def _folders_of(top: str) -> list[Path]:
    """Where a module of that name lies; nowhere if it is a library, or nobody has it."""
    if top == ddpm_kedro.__name__:
        return [Path(ddpm_kedro.__file__).parents[1]]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ has none
        return []
    places = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    return [Path(place).parent for place in places if not _INSTALLED & set(Path(place).parts)]


@functools.cache
def _version(library: str) -> str | None:
    """Of the distribution that a module comes from; None where it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # PIL is pillow's: look who installed it
        for distribution in importlib.metadata.distributions():
            record = "\n" + (distribution.read_text("RECORD") or "")
            if any(f"\n{library}{end}" in record for end in "/."):
                return distribution.version
    return None


@functools.cache
def _parsed(text: bytes) -> _Table:
    """What each name at a module's top is made by, in the order of the statements."""
    table: _Table = defaultdict(list)
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
            table[_SCRIPT if for_scripts else _ALWAYS].append(statement)
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


def _imports(statement: ast.AST) -> Iterator[tuple[str, _Import]]:
    """The names that an import binds."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            path = tuple(alias.name.split("."))
            yield alias.asname or path[0], _Import(0, path if alias.asname else path[:1])
    elif isinstance(statement, ast.ImportFrom):
        module = tuple(statement.module.split(".")) if statement.module else ()
        for alias in statement.names:
            path = module if alias.name == "*" else (*module, alias.name)
            yield alias.asname or alias.name, _Import(statement.level, path)


@functools.cache
def _read(statement: ast.stmt) -> _Definition:
    """A statement as `ast.dump` shows it, but the same in every Python: without what is empty,
    positions and docstrings; and what it names."""
    found, shape = _Definition(), []

    def add(node: ast.AST) -> None:
        if chain := _chain(node):
            found.chains.add(chain)
            shape.append(".".join(chain))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and _WORD.fullmatch(node.value):
                found.words.add(node.value)
            shape.append(repr(node.value))
        elif not _is_text(node):
            found.imports.update(_imports(node))
            shape.append(f"{type(node).__name__}(")
            for name, value in ast.iter_fields(node):
                if value is not None and value != []:
                    shape.append(f"{name}=")
                    for item in value if isinstance(value, list) else [value]:
                        add(item) if isinstance(item, ast.AST) else shape.append(repr(item))
                        shape.append(",")
            shape.append(")")

    add(statement)
    found.shape = "".join(shape)
    return found


def _chain(node: ast.AST) -> tuple[str, ...]:
    """The names in `a.b.c`; none of what is not just names."""
    if isinstance(node, ast.Name):
        return (node.id,)
    front = _chain(node.value) if isinstance(node, ast.Attribute) else ()
    return (*front, node.attr) if front else ()


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, of a field too, or another constant that nothing is done with."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
