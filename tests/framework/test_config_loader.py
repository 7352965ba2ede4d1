"""Layers of configuration: every layer has its say, and wrong choices are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader, compose

CONF = {
    "base/parameters.yml": "optimizer: adam\ntraining: {batch_size: 128, rate: 1e-3}\nroot: data\n",
    "base/parameters_choices.yml": "training: {optimizer: '${optimizers.${optimizer}}'}\n"
    "raw: ${root}/raw\n",
    "base/parameters/optimizers.yml": "optimizers:\n"
    "  adam: {type: torch.optim.Adam, lr: 0.002}\n"
    "  sgd: {type: torch.optim.SGD, lr: 0.1, momentum: 0.9}\n",
    "base/catalog.yml": "_folder: ${parameters:root}/06_models\n"
    "model: {type: pickle.PickleDataset, filepath: '${_folder}/model'}\n"
    "raw_images: {type: pickle.PickleDataset, filepath: '${parameters:raw}', "
    "save_args: '${parameters:training.optimizer}'}\n",
    "base/wandb.yml": "project: base\ninit: {a: 1, b: 2}\n",
    "homework/parameters.yml": "optimizers: {adam: {lr: 1.0e-5}, sgd: {lr: 1.0e-4}}\n",
    "homework/wandb.yml": "init: {b: 3}\n",
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in CONF.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "local").mkdir()
    return tmp_path


def load(conf: Path, env: str | None = None, **runtime_params: object) -> LayeredConfigLoader:
    return LayeredConfigLoader(
        str(conf),
        env=env,
        runtime_params=runtime_params,
        base_env="base",
        default_run_env="local",
        merge_strategy={"parameters": "soft", "wandb": "soft"},
        config_patterns={"wandb": ["wandb*"]},
    )


def optimizer(conf: Path, env: str | None = None, **runtime_params: object) -> dict[str, object]:
    return load(conf, env, **runtime_params)["parameters"]["training"]["optimizer"]


def test_a_choice_picks_the_entry_of_its_table(conf):
    assert optimizer(conf) == {"type": "torch.optim.Adam", "lr": 0.002}
    assert optimizer(conf, optimizer="sgd") == {
        "type": "torch.optim.SGD",
        "lr": 0.1,
        "momentum": 0.9,
    }


def test_a_preset_retunes_and_the_user_chooses(conf):
    assert optimizer(conf, "homework") == {"type": "torch.optim.Adam", "lr": 1e-5}
    chosen = optimizer(conf, "homework", optimizer="sgd")
    assert chosen == {"type": "torch.optim.SGD", "lr": 1e-4, "momentum": 0.9}


def test_local_lies_over_every_preset_and_under_the_command_line(conf):
    (conf / "local/parameters.yml").write_text("optimizer: sgd\ntraining: {batch_size: 7}\n")
    assert optimizer(conf, "homework")["lr"] == 1e-4
    assert optimizer(conf, "homework", optimizer="adam")["lr"] == 1e-5
    assert load(conf, "homework")["parameters"]["training"]["batch_size"] == 7
    assert load(conf)["parameters"]["training"]["batch_size"] == 7


def test_a_value_laid_over_a_choice_changes_the_chosen_entry(conf):
    given = {"optimizer": "sgd", "training": {"optimizer": {"lr": 0.5}}}
    assert optimizer(conf, "homework", **given) == {
        "type": "torch.optim.SGD",
        "lr": 0.5,
        "momentum": 0.9,
    }


def test_one_value_of_a_section_leaves_the_others(conf):
    parameters = load(conf, training={"batch_size": 4})["parameters"]
    assert parameters["training"]["rate"] == 1e-3
    assert parameters["training"]["batch_size"] == 4


@pytest.mark.parametrize("env", [None, "homework"])
def test_the_catalog_sees_the_composed_parameters(conf, env):
    catalog = load(conf, env, root="/big/run7", optimizer="sgd")["catalog"]
    assert catalog["model"]["filepath"] == "/big/run7/06_models/model"
    assert catalog["raw_images"]["filepath"] == "/big/run7/raw"
    assert catalog["raw_images"]["save_args"]["lr"] == (1e-4 if env else 0.1)
    assert "_folder" not in catalog


def test_two_loaders_do_not_mix(conf):
    first, second = load(conf, root="a"), load(conf, root="b")
    assert second["catalog"]["model"]["filepath"] == "b/06_models/model"
    assert first["catalog"]["model"]["filepath"] == "a/06_models/model"


def test_soft_files_merge_deeply_others_replace_whole_entries(conf):
    assert load(conf, "homework")["wandb"] == {"project": "base", "init": {"a": 1, "b": 3}}
    (conf / "homework/catalog.yml").write_text("model: {type: json.JSONDataset, filepath: x}\n")
    catalog = load(conf, "homework")["catalog"]
    assert catalog["model"] == {"type": "json.JSONDataset", "filepath": "x"}
    assert "raw_images" in catalog


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"optimizer": "rmsprop"}, "optimizer=rmsprop: choose one of adam, sgd"),
        ({"optimizer": "sdg"}, r"did you mean sgd\?"),
        ({"optimizer": 3}, "optimizer=3: choose one of adam, sgd"),
        ({"optimizer": None}, "optimizer=None: choose one of adam, sgd"),
        ({"root": "${nowhere.key}"}, "nowhere"),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_the_right_ones(conf, given, words):
    with pytest.raises(InputError, match=words) as refused:
        load(conf, **given)["parameters"]
    assert "\n" not in str(refused.value)


def test_base_may_be_asked_for_by_name(conf):
    assert load(conf, "base")["parameters"] == load(conf)["parameters"]
    assert load(conf, "base")["catalog"] == load(conf)["catalog"]


def test_an_environment_without_a_folder_is_refused(conf):
    with pytest.raises(InputError, match=r"--env nowhere.*choose one of homework"):
        load(conf, "nowhere")


def test_a_catalog_that_asks_for_no_parameter_is_refused(conf):
    (conf / "local/catalog.yml").write_text("x: {type: a.B, filepath: '${parameters:no.such}'}\n")
    with pytest.raises(Exception, match=r"parameter no\.such, which does not exist"):
        load(conf)["catalog"]


def test_parameters_of_a_request_may_not_name_a_type(conf):
    loader = load(conf, training={"optimizer": {"type": "os.system"}})
    assert loader["parameters"]["training"]["optimizer"]["type"] == "os.system"
    loader.restrict_runtime_params_type_selection = True
    with pytest.raises(InputError, match=r"training\.optimizer\.type"):
        loader["parameters"]


def test_layers_are_left_as_they_were():
    layers = [{"a": {"b": 1}}, {"a": {"c": "${a.b}"}}]
    assert compose(layers) == {"a": {"b": 1, "c": 1}}
    assert layers == [{"a": {"b": 1}}, {"a": {"c": "${a.b}"}}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer: adam\nseed: [1\n", "line 3: not valid YAML"),
        ("a: 1\n\tb: 2\n", "line 2: not valid YAML"),
        ("seed: 1\nseed: 2\n", "line 2: not valid YAML: found duplicate key seed"),
        ("- a\n- b\n", "needs key: value lines at its top level, not a list"),
        ("5\n", "needs key: value lines"),
        (b"name: caf\xe9\n", "not UTF-8"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_line(conf, text, said):
    path = conf / "local" / "parameters.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as refused:
        load(conf, env="homework")["parameters"]
    assert str(path) in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_file_says_nothing(conf):
    (conf / "local" / "parameters.yml").write_text("# nothing yet\n")
    assert load(conf)["parameters"]["optimizer"] == "adam"


@pytest.mark.parametrize("entry", ["5", "{filepath: a}"])
def test_a_catalog_entry_without_type_is_refused_by_name(conf, entry):
    (conf / "local" / "catalog.yml").write_text(f"model: {entry}\n")
    with pytest.raises(InputError, match="catalog entry model: needs a type"):
        load(conf)["catalog"]


@pytest.fixture
def params_file(conf: Path) -> Path:
    """A conf folder inside a project folder; the path of params.yaml beside it."""
    conf.rename(conf.parent / "moved")
    conf.mkdir()
    (conf.parent / "moved").rename(conf / "conf")
    return conf / "params.yaml"


def test_params_yaml_lies_over_local_and_under_the_command_line(params_file):
    conf = params_file.parent / "conf"
    (conf / "local/parameters.yml").write_text("optimizer: adam\ntraining: {batch_size: 7}\n")
    params_file.write_text("optimizer: sgd\nroot:\ntraining: {batch_size: null, rate: 5}\n")
    parameters = load(conf, "homework")["parameters"]
    assert parameters["training"]["optimizer"]["lr"] == 1e-4  # the preset's sgd
    assert parameters["training"]["batch_size"] == 7  # what is null is not set
    assert parameters["training"]["rate"] == 5
    assert parameters["root"] == "data"
    assert optimizer(conf, "homework", optimizer="adam")["lr"] == 1e-5


def test_params_yaml_chooses_the_preset_where_none_is_asked_for(params_file):
    conf = params_file.parent / "conf"
    params_file.write_text("preset: homework\n")
    assert optimizer(conf)["lr"] == 1e-5
    assert optimizer(conf, "local")["lr"] == 0.002
    assert "preset" not in load(conf)["parameters"]
    params_file.write_text("preset: null\n")
    assert optimizer(conf)["lr"] == 0.002


def test_layers_are_known_by_name(params_file):
    conf = params_file.parent / "conf"
    params_file.write_text("preset: homework\noptimizer: sgd\nroot:\n")
    loader = load(conf, root="x")
    loader["parameters"]
    layers = loader.parameter_layers
    assert list(layers) == ["base", "homework", "local", "params.yaml", "--params"]
    assert layers["params.yaml"] == {"optimizer": "sgd"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset: homwork\n", "params.yaml: preset=homwork: no folder .*did you mean homework"),
        ("preset: 3\n", "params.yaml: preset=3: no folder"),
        ("optimizer: sdg\n", "params.yaml: optimizer=sdg: choose one of"),
        ("- a\n", "params.yaml: needs key: value lines"),
        ("a: 1\n b: 2\n", "params.yaml, line 2: not valid YAML"),
    ],
)
def test_a_mistake_in_params_yaml_is_said_with_its_name(params_file, text, said):
    params_file.write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        load(params_file.parent / "conf")["parameters"]
    assert "\n" not in str(refused.value)


def test_only_what_params_yaml_says_is_placed_there(params_file):
    params_file.write_text("training: {batch_size: 0, rate: 1}\n")
    loader = load(params_file.parent / "conf", training={"rate": 2})
    mistakes = ["training.batch_size=0: too small", "training.rate=2: too large", "root=1: no"]
    placed = [str(loader.placed(InputError(mistake))) for mistake in mistakes]
    assert placed == [f"params.yaml: {mistakes[0]}", *mistakes[1:]]
