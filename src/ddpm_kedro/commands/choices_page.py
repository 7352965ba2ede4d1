"""Choices, options and the origins of values as lines of text for a terminal."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework import composition
from ddpm_kedro.framework.class_sentence import class_sentence
from ddpm_kedro.framework.composition import leaves
from ddpm_kedro.framework.origins import Origin, origins
from ddpm_kedro.parameters import Parameters


class ChoicesPage:
    """What `kedro choices` prints of a composed tree and the layers that it was composed of."""

    def __init__(self, tree: composition.Tree, layers: Mapping[str, composition.Tree]) -> None:
        self.tree, self.layers = tree, layers
        self.values, self.origins = dict(leaves(tree)), origins(layers)
        self.width = shutil.get_terminal_size().columns
        lines = list(composition.choice_lines(layers["base"]))
        self.places = [(place, match["name"]) for place, match in lines]
        tables = {match["name"]: match["table"] for _, match in lines}
        order = [field.name for field in fields(Parameters)]
        self.tables = {name: tables[name] for name in order if name in tables}

    def overview(self, everything: bool) -> Iterator[str]:
        """Each choice with its options in short; then the values of a run, `everything` or those
        that some layer above base gave or chose."""
        for group, table in self.tables.items():
            yield from self._rows([self._value(group)])
            yield from self._rows(
                (f"  {'*' if name == self.tree[group] else ' '} {name}", _text(entry))
                for name, entry in self.tree[table].items()
            )
            yield ""
        aside = {*self.tables, *self.tables.values()}
        shown = [
            path
            for path in sorted(self.values, key=lambda path: "." in path)
            if path.split(".")[0] not in aside and (everything or _above_base(self.origins[path]))
        ]
        layers = " < ".join(
            name
            for name, layer in self.layers.items()
            if any(value != {} for _, value in leaves(layer))
        )
        if everything:
            yield f"Values of a run; layers: {layers}"
        elif shown:
            yield f"Values not from base alone; layers: {layers}"
        else:
            yield "Every value comes from base; --all shows them"
        yield from self._rows(map(self._value, shown))

    def group(self, group: str) -> Iterator[str]:
        """The options of one choice in full, and the values of a run that follow it; InputError
        where there is no such choice."""
        if group not in self.tables:
            raise InputError(f"{group}: {composition.choices(group, list(self.tables))}")
        table = self.tables[group]
        yield from self._rows([self._value(group)])
        for name, entry in self.tree[table].items():
            kind = str(entry.get("type", ""))
            yield ""
            yield f"{'*' if name == self.tree[group] else ' '} {name}  {kind}".rstrip()
            if sentence := class_sentence(kind):
                yield textwrap.indent(textwrap.fill(sentence, self.width - 4), " " * 4)
            within = f"{table}.{name}."
            yield from self._rows(
                self._value(path, within)
                for path in self.values
                if path.startswith(within) and path != f"{within}type"
            )
        yield ""
        yield "Values of a run"
        places = tuple(f"{place}." for place, name in self.places if name == group)
        yield from self._rows(
            self._value(path)
            for path in self.values
            if path.split(".")[0] not in self.tables.values()
            and (f"{path}.".startswith(places) or self.origins[path].path.startswith(f"{table}."))
        )

    def _value(self, path: str, within: str = "") -> tuple[str, str]:
        """`path = value` and its origin; the path without what it lies `within`."""
        left = f"{'    ' if within else ''}{path.removeprefix(within)} = {_text(self.values[path])}"
        return left, _where(self.origins[path], path)

    def _rows(self, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Two columns; what is too long for its column goes on below."""
        rows = list(rows)
        column = min(max((len(left) for left, _ in rows), default=0) + 2, self.width // 2)
        for left, right in rows:
            longest = max(map(len, right.split()), default=0)
            indent = column if longest <= self.width - column else 8
            first = left.ljust(column - 2) + "  "
            if indent < column or (len(first) > column and len(first + right) > self.width):
                yield left
                first = " " * indent
            yield from textwrap.wrap(
                right,
                self.width,
                initial_indent=first,
                subsequent_indent=" " * indent,
                break_on_hyphens=False,
                break_long_words=False,
            )


def _above_base(origin: Origin) -> bool:
    return {origin.layer, origin.chosen_by} != {"base"}


def _where(origin: Origin, path: str) -> str:
    """The origin of the value at `path`: `base (optimizers.sgd), chosen by --params`."""
    here, there = path.split("."), origin.path.split(".")
    while here and len(there) > 1 and here[-1] == there[-1]:
        here, there = here[:-1], there[:-1]
    where = "" if origin.path == path else f" ({'.'.join(there)})"
    chosen = "" if origin.chosen_by == "base" else f", chosen by {origin.chosen_by}"
    return f"{origin.layer}{where}{chosen}"


def _text(value: Any) -> str:
    """A value as YAML says it; an option as a call of its class."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}={_text(each)}" for key, each in value.items() if key != "type")
        name = str(value.get("type")).rpartition(".")[2]
        return f"{name}({inner})" if "type" in value else inner
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
