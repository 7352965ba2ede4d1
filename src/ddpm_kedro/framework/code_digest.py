"""Which code makes a result: the definitions that a function or class reaches, in a few digits.

By syntax tree, so that nothing is imported to find out, and comments, docstrings and layout count
for nothing. Definition by definition: what else stands in their modules counts for nothing either.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import ddpm_kedro
from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.definitions import ALWAYS, Definition, Import, Table, read, table_of

_DIGITS = 12
_QUOTED = re.compile(r'"([\w/.-]+\.\w+)"')
_INSTALLED = {"site-packages", "dist-packages"}
_MODULE_ENDS = ("/__init__.py", ".py", "/")  # the last without the first: a namespace


def code_digest(roots: Iterable[str], source: Path | None = None) -> dict[str, str]:
    """What the functions and classes `roots`, dotted paths, are made of: of each module of the
    project 12 hexadecimal digits over the definitions in it that they reach, of each library the
    version that is installed.

    The project is this package and every module that is neither Python's own nor installed;
    `source` is a folder where modules are looked for first. A root that is not found is left out.
    InputError where a module is no Python.
    """
    closure = Closure(roots, source)
    facts = {name: version for name in closure.libraries if (version := _version(name))}
    for module, shapes in closure.shapes.items():
        facts[module] = hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:_DIGITS]
    return dict(sorted(facts.items()))


class Closure:
    """What `roots` reach: `shapes`, of each module the names with their statements, written down,
    and `libraries`, the names of their modules."""

    def __init__(self, roots: Iterable[str], source: Path | None = None) -> None:
        self.shapes: dict[str, dict[str, str]] = defaultdict(dict)
        self.libraries: set[str] = set()
        self._source = source
        self._files: dict[str, Path | None] = {}
        self._tables: dict[str, Table] = {}
        self._left: list[tuple[str, str, tuple[str, ...]]] = []
        seen = set()
        for root in roots:
            self._reach(tuple(root.split(".")), named=True)
        while self._left:
            if (item := self._left.pop()) not in seen:
                seen.add(item)
                self._take(*item)

    def _reach(self, path: tuple[str, ...], *, named: bool = False) -> None:
        """Note what an absolute path leads to: the whole of a module where it ends there, or goes
        on to what nobody finds; but nothing then where text just `named` it."""
        if path[0] == ddpm_kedro.__name__ and (home := ddpm_kedro.PUBLIC.get("".join(path[1:2]))):
            path = (path[0], *home.split("."), *path[1:])
        module, *names = path
        if not module or module in sys.stdlib_module_names:
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

    def _take(self, module: str, name: str, rest: tuple[str, ...]) -> None:
        table, is_first = self._table(module), name not in self.shapes[module]
        shapes = []
        for entry in table[name]:
            if isinstance(entry, Import):
                shapes.append(repr(entry))
                self._reach(self._absolute(module, entry) + rest)
            else:
                definition = read(entry)
                shapes.append(definition.shape)
                if is_first:
                    shapes += self._follow(module, definition)
        if is_first:
            self.shapes[module][name] = "\n".join(shapes)
        if ALWAYS in table:
            self._left.append((module, ALWAYS, ()))

    def _follow(self, module: str, definition: Definition) -> Iterator[str]:
        """Reach what a definition names; yield the content of files beside its module."""
        for first, *rest in definition.chains:
            if first in self._table(module):
                self._left.append((module, first, tuple(rest)))
            for name, entry in definition.imports:
                if name == first:
                    self._reach((*self._absolute(module, entry), *rest))
        for word in sorted(definition.words):
            path = tuple(word.split("."))
            if path[0] in (module.partition(".")[0], ddpm_kedro.__name__):
                self._reach(path, named=True)
            else:
                yield from map(_hash_of, sorted(_texts(self._file(module).parent, word)))

    def _absolute(self, module: str, entry: Import) -> tuple[str, ...]:
        if not entry.level:
            return entry.path
        package = module.split(".") + [""] * (self._file(module).name == "__init__.py")
        return (*package[: -entry.level], *entry.path)

    def _table(self, module: str) -> Table:
        if module not in self._tables:
            path = self._file(module)
            try:
                self._tables[module] = table_of(b"" if path.is_dir() else path.read_bytes())
            except (SyntaxError, ValueError) as error:
                raise InputError(f"{path} is no Python: {error}") from error
        return self._tables[module]

    def _file(self, module: str) -> Path | None:
        """The file of a module of the project, or the folder of a package without one."""
        if module not in self._files:
            parent, _, name = module.rpartition(".")
            above = self._file(parent) if parent else None
            if above is None:
                folders = [self._source] * (self._source is not None) + _folders_of(name)
            else:
                folders = [above.parent if above.name == "__init__.py" else above]
            files = [folder / f"{name}{end}" for folder in folders for end in _MODULE_ENDS]
            found = (path for path in files if (path.is_file() if path.suffix else path.is_dir()))
            self._files[module] = next(found, None)
        return self._files[module]


def _texts(folder: Path, word: str) -> set[Path]:
    """The file that a word names beside a module, or one folder up, and those that the text in it
    names in quotes, as templates do."""
    found: set[Path] = set()
    left = [word]
    while left:
        name = left.pop()
        for path in (folder / name, folder.parent / name):
            if path.is_file() and path not in found:
                found.add(path)
                left += _QUOTED.findall(path.read_text("utf-8", "replace"))
    return found


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
