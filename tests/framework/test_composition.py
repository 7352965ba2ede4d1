"""A formulation makes five choices; the last layer that speaks wins, and so it is with samplers."""

from __future__ import annotations

from typing import Any

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.composition import compose

PARTS = ("noise_schedule", "objective", "sampler")
BASE: dict[str, Any] = {
    "formulation": "v_cosine",
    **{part: f"${{formulations.${{formulation}}.{part}}}" for part in PARTS},
    "formulations": {
        "v_cosine": {"noise_schedule": "cosine", "objective": "v", "sampler": "ddim"},
        "edm": {"noise_schedule": "edm", "objective": "edm", "sampler": "heun"},
    },
    "noise_schedules": {"cosine": {"type": "Cosine", "levels": 1000}, "edm": {"type": "EDM"}},
    "objectives": {"eps": {"type": "Eps"}, "v": {"type": "V"}, "edm": {"type": "EDM"}},
    "samplers": {
        "ddim": {"type": "DDIM", "num_steps": 50},
        "heun": {"type": "Heun", "num_steps": 25, "spacing": "karras"},
        "ancestral": {"type": "Ancestral", "num_steps": 1000},
    },
    "training": {part: f"${{{part}s.${{{part}}}}}" for part in PARTS},
    "sampling": {"sampler": None, "num_steps": None},
}
HOMEWORK = {"formulation": "v_cosine", "objective": "eps", "sampler": "ancestral"}
EDM, V_COSINE = ["edm", "edm", "heun"], ["cosine", "v", "ddim"]


def chosen(tree: dict[str, Any]) -> list[str]:
    return [tree[part] for part in PARTS]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], V_COSINE),
        ([{"formulation": "edm"}], EDM),
        ([HOMEWORK], ["cosine", "eps", "ancestral"]),
        ([HOMEWORK, {"formulation": "edm"}], EDM),
        ([HOMEWORK, {"formulation": "edm", "objective": "v"}], ["edm", "v", "heun"]),
        ([HOMEWORK, {"formulation": "edm"}, {"objective": "v"}], ["edm", "v", "heun"]),
        ([{"objective": "eps"}, {"formulation": "edm"}, {}], EDM),
        ([{"formulation": "edm"}, {"formulation": "v_cosine"}], V_COSINE),
        ([{"objective": "eps"}, {"sampler": "heun"}], ["cosine", "eps", "heun"]),
        ([HOMEWORK, {"formulation": "v_cosine"}], V_COSINE),  # named anew, though it is the same
    ],
)
@pytest.mark.parametrize("of_user", [0, 1, 2])
def test_the_last_layer_that_speaks_wins(layers, expected, of_user):
    every = [BASE, *layers]
    border = len(every) - min(of_user, len(layers))
    tree = compose(every[:border], every[border:])
    assert chosen(tree) == expected
    tables = [tree[f"{part}s"] for part in PARTS]
    trained = [tree["training"][part] for part in PARTS]
    assert trained == [table[name] for table, name in zip(tables, expected, strict=True)]


def test_retuned_tables_keep_their_say():
    retuned = {"samplers": {"heun": {"num_steps": 9}}, "objectives": {"edm": {"sigma_data": 0.3}}}
    training = compose([BASE, retuned | HOMEWORK], [{"formulation": "edm"}])["training"]
    assert training["sampler"]["num_steps"] == 9
    assert training["objective"]["sigma_data"] == 0.3


def test_a_table_that_waits_keeps_its_say_unless_it_names_the_part():
    told = {"training": {"objective": {"type": "Mine"}, "noise_schedule": {"levels": 7}}}
    below = compose([BASE], [told])["training"]
    assert (below["objective"], below["noise_schedule"]["levels"]) == ({"type": "Mine"}, 7)
    outranked = compose([BASE], [told, {"formulation": "edm"}])["training"]
    assert outranked["objective"] == {"type": "EDM"}
    assert outranked["noise_schedule"] == {"type": "EDM", "levels": 7}  # refused by its class
    beside = compose([BASE], [{"formulation": "edm", **told}])["training"]
    assert beside["objective"] == {"type": "Mine"}


def test_what_follows_a_line_gets_the_table_laid_over_it():
    base = BASE | {"sampling": {"objective": "${training.objective}"}}
    tree = compose([base], [{"training": {"objective": {"weight": 7}}}])
    assert tree["training"]["objective"]["weight"] == 7
    assert tree["sampling"]["objective"] == tree["training"]["objective"]


def test_a_formulation_of_one_s_own():
    mine = {"noise_schedule": "cosine", "objective": "eps", "sampler": "heun"}
    tree = compose([BASE], [{"formulations": {"mine": mine}}, {"formulation": "mine"}])
    assert chosen(tree) == ["cosine", "eps", "heun"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"formulation": "edn"},
            "formulation=edn: choose one of edm, v_cosine (did you mean edm?)",
        ),
        ({"formulation": None}, "formulation=None: choose one of edm, v_cosine"),
        (
            {"formulations": {"v_cosine": {"objective": "epz"}}},
            "formulations.v_cosine.objective=epz: choose one of edm, eps, v (did you mean eps?)",
        ),
        (
            {"formulation": "mine", "formulations": {"mine": {"noise_schedule": "cosine"}}},
            "formulations.mine: names no objective, which it has to choose too",
        ),
        (
            {"formulation": "mine", "formulations": {"mine": 5}},
            "formulations.mine: names no noise_schedule, which it has to choose too",
        ),
        ({"objective": "epz"}, "objective=epz: choose one of edm, eps, v (did you mean eps?)"),
        (
            {"sampling": {"sampler": "huen"}},
            "sampling.sampler=huen: choose one of ancestral, ddim, heun (did you mean heun?)",
        ),
    ],
)
def test_a_wrong_name_is_one_line(given, said):
    with pytest.raises(InputError) as refused:
        compose([BASE], [given])
    assert str(refused.value) == said


DDIM, HEUN = BASE["samplers"]["ddim"], BASE["samplers"]["heun"]


@pytest.mark.parametrize(
    ("users", "told"),
    [
        # Nobody says a word about sampling: the model file's own
        ([], None),
        ([{"formulation": "edm"}], None),
        ([{"samplers": {"heun": {"num_steps": 9}}}], None),  # not the chosen one
        ([{"sampler": "heun"}, {"formulation": "v_cosine"}], None),
        ([{"sampling": {"sampler": "heun"}}, {"sampling": {"sampler": None}}], None),
        # A user's choice of sampler, and a retuned entry of the chosen one
        ([{"sampler": "heun"}], HEUN),
        ([{"formulation": "edm", "sampler": "ddim"}], DDIM),
        ([{"formulation": "edm"}, {"sampler": "ddim"}], DDIM),
        ([{"samplers": {"ddim": {"num_steps": 9}}}], DDIM | {"num_steps": 9}),
        ([{"sampler": "heun", "samplers": {"heun": {"num_steps": 9}}}], HEUN | {"num_steps": 9}),
        # sampling.sampler itself: a name, a whole option, arguments of what would be used
        ([{"sampling": {"sampler": "heun"}}], HEUN),
        ([{"sampling": {"sampler": "${samplers.heun}"}}], HEUN),
        ([{"sampler": "ddim", "sampling": {"sampler": "heun"}}], HEUN),
        ([{"sampling": {"sampler": "heun"}}, {"sampler": "ddim"}], DDIM),
        ([{"sampler": "ddim"}, {"sampling": {"sampler": "heun"}}], HEUN),
        ([{"sampling": {"sampler": {"type": "Mine", "a": 1}}}], {"type": "Mine", "a": 1}),
        (
            [{"sampling": {"sampler": "heun"}}, {"sampling": {"sampler": {"type": "Mine"}}}],
            {"type": "Mine"},
        ),
        ([{"sampling": {"sampler": {"num_steps": 7}}}], {"num_steps": 7}),
        (
            [{"sampler": "heun", "sampling": {"sampler": {"num_steps": 7}}}],
            HEUN | {"num_steps": 7},
        ),
        (
            [{"sampling": {"sampler": "heun"}}, {"sampling": {"sampler": {"num_steps": 7}}}],
            HEUN | {"num_steps": 7},
        ),
    ],
)
def test_what_sampling_is_told(users, told):
    assert compose([BASE], users)["sampling"]["sampler"] == told
    preset = {"formulation": "v_cosine", "samplers": {"ancestral": {"num_steps": 5}}}
    assert compose([BASE, preset], users)["sampling"]["sampler"] == told


def test_a_preset_s_sampler_is_its_models_and_not_told():
    tree = compose([BASE, HOMEWORK | {"samplers": {"ancestral": {"num_steps": 5}}}])
    assert tree["training"]["sampler"] == {"type": "Ancestral", "num_steps": 5}
    assert tree["sampling"]["sampler"] is None


@pytest.mark.parametrize("above", [{"training": 7}, {"training": {"objective": 5}}])
def test_a_table_that_waits_does_not_outlast_what_is_laid_over_its_line(above):
    told = {"training": {"objective": {"sigma_data": 0.3}}}
    assert compose([BASE], [told, above])["training"] == compose([BASE], [above])["training"]
