"""Which code a digest holds: what a function reaches, definition by definition, nothing else."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.code_digest import Closure, code_digest
from ddpm_kedro.framework.definitions import table_of

PROJECT = Path(__file__).parents[2]

SHOP = {
    "shop/__init__.py": "from shop.prices import Price as Amount\n",
    "shop/nodes.py": '''
"""Sells."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import shop.tax
from shop import Amount
from shop.basket import total

if TYPE_CHECKING:
    from shop.people import Buyer


def sell(buyer: Buyer) -> Amount:
    """One sale."""
    return Amount(np.sum(total(buyer)) * shop.tax.rate())


def gift():
    from shop.ribbons import tie

    return tie("card.txt")


def other():
    return 1


def by_name(name):
    return getattr(shop.tax, name)


def quoted(buyer: "Buyer | None"):
    return {"type": "shop.ribbons.tie"}
''',
    "shop/basket.py": """
from . import rounding
from .prices import *
FEES = {"bag": 1}
FEES |= {"box": 2}
def total(buyer, fee=FEES["bag"]):
    return rounding.whole(fee)
def unused():
    return FEES
""",
    "shop/rounding.py": "whole = round\n",
    "shop/prices.py": """
class Base:
    \"\"\"Of prices.\"\"\"
    unit: str = "EUR"
    \"\"\"What it is in.\"\"\"
    def show(self):
        return self.unit
    def preview(self) -> TablePreview:
        return table(self.unit)
def kept(kind):
    return kind
@kept
class Price(Base):
    pass
class Rebate(Base):
    pass
def table(unit):
    return [unit]
""",
    "shop/tax.py": """
import math
try:
    import torch as backend
except ImportError:
    backend = None
RATE = 0.2
def rate():
    return RATE
def ceiling():
    return math.ceil(RATE)
print("tax")
if __name__ == "__main__":
    print(ceiling())
""",
    "shop/people.py": "class Buyer:\n    name = 'x'\n",
    "shop/ribbons.py": "def tie(text):\n    return text\n",
    "shop/card.txt": 'Yours {% include "border.txt" %}',
    "shop/border.txt": "Lines",
}
SALE = {"shop", "shop.nodes", "shop.basket", "shop.rounding", "shop.prices", "shop.tax"}
SALE |= {"shop.people"}


@pytest.fixture
def shop(tmp_path) -> Path:
    for name, text in SHOP.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def change(source: Path, name: str, old: str, new: str) -> None:
    path = source / "shop" / name
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def differing(source: Path, root: str, name: str, old: str, new: str) -> set[str]:
    """The modules and libraries whose digests a change changes."""
    before = code_digest([root], source)
    change(source, name, old, new)
    after = code_digest([root], source)
    return {module for module in before | after if before.get(module) != after.get(module)}


def test_a_digest_names_every_module_and_library_that_is_reached(shop):
    digest = code_digest(["shop.nodes.sell"], shop)
    assert set(digest) == SALE | {"numpy", "torch"}
    assert all(len(digest[module]) == 12 for module in SALE)
    assert int(digest["shop"], 16)
    assert set(code_digest(["shop.nodes.other"], shop)) == {"shop.nodes"}
    assert set(code_digest(["shop.nodes.gift"], shop)) == {"shop.nodes", "shop.ribbons"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("nodes.py", '"""Sells."""', '"""Sells\nmuch."""'),
        ("nodes.py", '    """One sale."""\n', "\n    # a sale\n"),
        ("nodes.py", '"""Sells."""', ""),
        ("prices.py", '    """Of prices."""\n', ""),
        ("prices.py", '    """What it is in."""\n', ""),
        ("basket.py", 'FEES = {"bag": 1}', "FEES = {  # by kind\n    'bag': 0x1,\n}"),
        ("nodes.py", "return 1", "return 2"),
        ("nodes.py", "import numpy as np", "import json\nimport numpy as np"),
        ("basket.py", "    return FEES", "    return 0"),
        ("prices.py", "class Rebate(Base)", "class Rebate"),
        ("prices.py", "table(self.unit)", "table(self)"),
        ("prices.py", "return [unit]", "return []"),
        ("tax.py", "math.ceil(RATE)", "math.floor(RATE)"),
        ("tax.py", "print(ceiling())", "print(rate())"),
        ("ribbons.py", "return text", "return 0"),
        ("card.txt", "Yours", "Mine"),
    ],
    ids=str,
)
def test_what_does_not_make_a_result_changes_nothing(shop, name, old, new):
    # a sale imports all of prices by its star: those changes are asked of what names Amount alone
    root = "shop.Amount" if name == "prices.py" else "shop.nodes.sell"
    assert differing(shop, root, name, old, new) == set()


@pytest.mark.parametrize(
    ("name", "old", "new", "module"),
    [
        ("nodes.py", "total(buyer)", "total(buyer, 3)", "shop.nodes"),
        ("nodes.py", "-> Amount", "-> float", "shop.nodes"),
        ("basket.py", 'FEES["bag"]', 'FEES["box"]', "shop.basket"),
        ("basket.py", '|= {"box": 2}', '|= {"box": 3}', "shop.basket"),
        ("rounding.py", "whole = round", "whole = int", "shop.rounding"),
        ("prices.py", "return self.unit", "return 'USD'", "shop.prices"),
        ("prices.py", "return kind", "return Base", "shop.prices"),
        ("prices.py", "@kept\n", "", "shop.prices"),
        ("tax.py", "RATE = 0.2", "RATE = 0.25", "shop.tax"),
        ("tax.py", 'print("tax")', 'print("rate")', "shop.tax"),
        ("tax.py", "backend = None", "backend = 0", "shop.tax"),
        ("people.py", "'x'", "'y'", "shop.people"),
        ("__init__.py", "Price as Amount", "Base as Amount", "shop"),
    ],
    ids=str,
)
def test_what_makes_a_result_changes_the_digest_of_its_module_alone(shop, name, old, new, module):
    assert differing(shop, "shop.nodes.sell", name, old, new) == {module}


def test_the_order_of_changes_to_a_name_counts(shop):
    change(shop, "basket.py", "FEES |=", "FEES |= {}\nFEES |=")
    again = differing(shop, "shop.nodes.sell", "basket.py", "FEES |= {}\n", "")
    assert again == {"shop.basket"}


@pytest.mark.parametrize(
    ("name", "old", "module"),
    [
        ("ribbons.py", "return text", "shop.ribbons"),
        ("card.txt", "Yours", "shop.nodes"),
        ("border.txt", "Lines", "shop.nodes"),  # which the card includes
    ],
)
def test_what_a_function_imports_and_the_files_it_names_count_for_it(shop, name, old, module):
    assert differing(shop, "shop.nodes.gift", name, old, f"{old}_") == {module}


def test_an_attribute_that_nobody_can_tell_takes_the_whole_module(shop):
    assert "shop.tax" in differing(shop, "shop.nodes.by_name", "tax.py", "math.ceil", "math.floor")
    assert differing(shop, "shop.nodes.by_name", "people.py", "'x'", "'y'") == set()


def test_names_in_quotes_count(shop):
    assert {"shop.people", "shop.ribbons"} <= set(code_digest(["shop.nodes.quoted"], shop))


def test_an_import_that_is_swapped_counts_where_both_were_reached_already(shop):
    roots = ["shop.nodes.sell", "shop.prices.Base", "shop.prices.Price"]
    before = code_digest(roots, shop)
    change(shop, "__init__.py", "Price as Amount", "Base as Amount")
    after = code_digest(roots, shop)
    assert {module for module in before if before[module] != after[module]} == {"shop"}


def test_what_is_not_found_is_left_out(shop):
    roots = ["shop.gone.sell", "shop.nodes.gone", "gone.sell", "", "shop..x", "__main__.f"]
    assert code_digest(roots, shop) == {}


def test_a_class_of_a_library_is_its_version():
    digest = code_digest(["torch.optim.SGD", "json.dumps", "PIL.Image.Image"])
    assert digest == {"PIL": version("pillow"), "torch": version("torch")}


def test_a_lambda_takes_its_module(shop):
    assert set(code_digest(["shop.rounding.<lambda>"], shop)) == {"shop.rounding"}


def test_the_version_of_a_library_counts(shop, monkeypatch):
    before = code_digest(["shop.nodes.sell"], shop)
    monkeypatch.setattr("ddpm_kedro.framework.code_digest._version", lambda name: f"1 of {name}")
    after = code_digest(["shop.nodes.sell"], shop)
    assert after == before | {"numpy": "1 of numpy", "torch": "1 of torch"}


def test_a_module_of_a_users_own_is_project_code_and_an_installed_one_is_not(shop, monkeypatch):
    installed = shop / "site-packages" / "bought"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("def sell(): pass\n")
    (shop / "mine.py").write_text("from ddpm_kedro import DDIM\nclass Fast(DDIM): pass\n")
    monkeypatch.syspath_prepend(str(shop))
    monkeypatch.syspath_prepend(str(installed.parent))
    digest = code_digest(["mine.Fast", "bought.sell"])
    assert {"mine", "ddpm_kedro.diffusion.samplers.ancestral"} <= set(digest)
    assert "bought" not in digest  # no distribution, so no version
    assert "mine" not in sys.modules


def test_a_module_that_is_no_python_is_named(shop):
    (shop / "shop" / "rounding.py").write_text("whole = (\n")
    with pytest.raises(InputError, match=r"rounding\.py is no Python: '\(' was never closed"):
        code_digest(["shop.nodes.sell"], shop)


# Run in a process of its own: every node of the smoke preset, noting each function of the project
# that is entered while it works, and what the digest of its code was asked for.
NODES = """
import importlib, json, pkgutil, sys, threading
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline
import ddpm_kedro

project, data_root = sys.argv[1:]
bootstrap_project(project)
for module in pkgutil.walk_packages(ddpm_kedro.__path__, "ddpm_kedro."):
    importlib.import_module(module.name)  # now, so that no node's work is to import one
entered, roots = set(), []
making = sys.modules["ddpm_kedro.framework.making"]
making.code_digest = lambda asked: roots.extend(asked) or {}

def note(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.startswith(ddpm_kedro.__path__[0]):
        entered.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

def run(node, catalog):
    inputs = {name: catalog.load(name) for name in node.inputs}
    for name, output in node.run(inputs).items():
        catalog.save(name, output)

context = KedroSession.create(project, env="smoke", runtime_params={"data_root": data_root})
catalog = context.load_context().catalog
for node in pipelines["__default__"].nodes:
    roots.clear()
    making.making_of(Pipeline([node]), catalog)
    entered.clear()
    threading.setprofile(note)
    sys.setprofile(note)
    run(node, catalog)
    sys.setprofile(None)
    threading.setprofile(None)
    print(json.dumps([node.name, roots, sorted(entered)]))
"""
# Entered while a node works, yet no part of what it makes
EXEMPT = {
    ("ddpm_kedro", "__getattr__"),  # the lazy names of the package: they are followed themselves
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, tuple[list[str], list[tuple[str, int]]]]:
    """Of each node of the smoke preset: what its digest is asked for, and what it entered."""
    result = subprocess.run(
        [sys.executable, "-c", NODES, str(PROJECT), str(tmp_path_factory.mktemp("data"))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )
    assert result.returncode == 0, result.stderr
    nodes = [json.loads(line) for line in result.stdout.splitlines()]
    return {name: (roots, entered) for name, roots, entered in nodes}


def names_at(path: Path, line: int) -> set[str]:
    """The names of the statement at the top of a file that a line belongs to."""
    return {
        name
        for name, entries in table_of(path.read_bytes()).items()
        for entry in entries
        if isinstance(entry, ast.stmt)
        and min(part.lineno for part in [entry, *getattr(entry, "decorator_list", [])]) <= line
        and line <= entry.end_lineno
    }


def test_everything_that_a_node_calls_is_in_its_digest(stages):
    source = PROJECT / "src"
    missing = []
    for node, (roots, entered) in stages.items():
        shapes = Closure(roots).shapes
        assert len(entered) > 15
        for file, line in entered:
            path = Path(file)
            if path.suffix != ".py":  # a template: its text counts as a whole
                continue
            module = ".".join(path.relative_to(source).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            names = names_at(path, line)
            if not names & set(shapes.get(module, ())) | {
                n for n in names if (module, n) in EXEMPT
            }:
                missing.append((node, module, line, names))
    assert missing == []


def test_a_stage_is_made_by_its_own_code_alone(stages):
    reached = {node: set(Closure(roots).shapes) for node, (roots, _) in stages.items()}

    def nodes_of(module: str) -> set[str]:
        return {node for node, modules in reached.items() if f"ddpm_kedro.{module}" in modules}

    assert nodes_of("images.decoding") == {"prepare_images"}
    assert nodes_of("training.loop") == {"train_model"}
    assert nodes_of("evaluation.kid") == {"evaluate_samples"}
    assert nodes_of("evaluation.report") == {"write_report"}
    assert nodes_of("training.settings") == {"train_model"}
    assert nodes_of("training.lr_schedule") == {"train_model"}
    assert nodes_of("images.grid") == {"train_model", "draw_grid", "write_report"}
    drawing = {"train_model", "sample_images", "evaluate_samples"}
    assert nodes_of("diffusion.samplers.ancestral") == drawing
    assert nodes_of("diffusion.backbones.compact") == drawing
    assert nodes_of("diffusion.backbones.homework") == set()
    others = {"parameters": {"prepare_images"}, "option_check": set(), "composition": set()}
    assert {module: nodes_of(module) for module in others} == others


def test_nothing_is_imported_to_find_out():
    program = """
import sys
from ddpm_kedro.framework.code_digest import code_digest
digest = code_digest(["ddpm_kedro.pipelines.training.nodes.train_model"])
assert "torch" in digest and "ddpm_kedro.training.loop" in digest
print(*(name for name in ("torch", "numpy", "kedro", "ddpm_kedro.training") if name in sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"
