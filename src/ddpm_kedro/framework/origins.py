"""Origins: which layer of the configuration each composed parameter comes from, and who chose it.

Found by composing again with each value replaced by a mark that says where it was written, so the
rules of composition themselves carry the marks to their places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpm_kedro.framework.composition import Tree, choice_lines, compose, leaves
from ddpm_kedro.framework.config_loader import USER_LAYERS

# Number of the layer, number of the layer that chose the entry of a table, path with slashes
_MARK = re.compile("\0(\\d+):(\\d+):([^\0]*)\0")


@dataclass(frozen=True)
class Origin:
    """Where a value was written, and who chose that it is used."""

    layer: str
    """The name of a layer: `base`, a preset's, or one of `USER_LAYERS`."""
    path: str
    """The dotted path at which it stands there, such as `optimizers.sgd.lr`."""
    chosen_by: str
    """The layer that chose the table's entry which it belongs to; `base` also if nobody had to."""


def origins(layers: Mapping[str, Tree]) -> dict[str, Origin]:
    """The origin of each value of the tree that `compose` makes of `layers`, by dotted path.

    `layers` are as written, by name, lowest first. A list is one value, and so is an empty table.
    A value that interpolates others (`${data_root}/raw`) has the origin of the highest of them.
    InputError as of `compose`.
    """
    names, every = list(layers), list(layers.values())
    border = sum(name not in USER_LAYERS for name in names)
    tree = compose(every[:border], every[border:])
    marks, marked = _Marks(every), []
    known = -1
    while known < len(marks.chosen):  # a name that is found asks for marks of what it names
        known = len(marks.chosen)
        marked = [marks.layer(number, layer) for number, layer in enumerate(every)]
    carried = dict(leaves(compose(marked[:border], marked[border:])))
    found = {}
    for path, _ in leaves(tree):
        told = _MARK.findall(str(carried.get(path)))
        if told:
            number, by, written = max((int(layer), int(by), at) for layer, by, at in told)
        else:  # nothing could be marked there: `sampling.sampler` where it is null
            held = [n for n, layer in enumerate(every) if path in dict(leaves(layer))]
            number, by, written = max(held, default=0), 0, path
        found[path] = Origin(names[number], written.replace("/", "."), names[by])
    return found


class _Marks:
    """Puts marks in the place of values; a choice's name keeps its text, with the mark behind it,
    and the entry that it names stands in its table under that text too."""

    def __init__(self, layers: list[Tree]) -> None:
        choices = [match for layer in layers for _, match in choice_lines(layer)]
        self.tables = {match["table"] for match in choices}
        self.names = {(match["name"],) for match in choices} | {("sampling", "sampler")}
        self.parts = {(match["table"], match["field"]) for match in choices if match["field"]}
        self.chosen: dict[str, tuple[str, int]] = {}  # marked name: the name, who chose it

    def layer(self, number: int, layer: Tree) -> dict[str, Any]:
        marked = self._table(layer, number, 0, ())
        for table in self.tables & layer.keys():
            for key, (name, by) in list(self.chosen.items()):
                if isinstance(entries := layer[table], Mapping) and name in entries:
                    marked[table][key] = self._value(entries[name], number, by, (table, name))
        return marked

    def _table(self, table: Tree, number: int, by: int, path: tuple[str, ...]) -> dict[str, Any]:
        return {key: self._value(value, number, by, (*path, key)) for key, value in table.items()}

    def _value(self, value: Any, number: int, by: int, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return self._table(value, number, by, path)
        mark = f"\0{number}:{by}:{'/'.join(map(str, path))}\0"
        if path in self.names or (len(path) == 3 and (path[0], path[2]) in self.parts):
            if not isinstance(value, str) or "${" in value:
                return value
            self.chosen[value + mark] = value, max(number, by)
            return value + mark
        return value if "${" in str(value) else mark
