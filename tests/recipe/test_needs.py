"""What a recipe lacks here: told at once, with the key that asks for it, before anything is loaded."""

from __future__ import annotations

import functools
import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck import cli, recipe
from limbeck.core.errors import UserError
from limbeck.recipe import needs
from limbeck.recipe.needs import catalogue, weights

PLAIN: dict[str, Any] = {
    "data": {"source": "digits"},
    "teachers": [{"model": "mlp", "train": {"epochs": 1}}],
    "student": {"model": "mlp", "train": {"epochs": 1}},
    "losses": {"hard": 0.1, "kd": 0.9},
}


def lacks(tmp_path: Path, **keys: Any) -> list[tuple[str, str]]:
    """The places and words of what a recipe with these keys lacks."""
    return [(one.place, one.what) for one in needs.lacking(recipe.load({**PLAIN, **keys}), tmp_path / "runs")]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start where there is nothing, with empty caches and nobody to call."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nobody())
    monkeypatch.setattr(weights, "KERAS", nobody())


def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
def somebody() -> Iterator[str]:
    """An address at which every question is answered with 404."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "place", "what"),
    [
        ({"source": "folder", "path": "pictures"}, "data.path", "there is no such folder: pictures"),
        ({"source": "folder", "path": "t.csv"}, "data.path", "is no folder: t.csv"),
        ({"source": "arrays", "path": "x.npz"}, "data.path", "there is no such file or folder: x.npz"),
        ({"source": "table", "path": "u.csv", "target": "c"}, "data.path", "there is no such file: u.csv"),
        ({"source": "table", "path": "t.xlsx", "target": "c"}, "data.path", "is neither .csv, .tsv nor .parquet: t."),
        ({"source": "mnist"}, "data.source", "mnist is not on this machine; looked in\n"),
        ({"source": "fashion-mnist", "path": "here"}, "data.path", "fashion-mnist is not on this machine; looked in\n"),
        ({"source": "cifar10"}, "data.source", "cifar10 is not on this machine; looked in\n"),
        ({"target": "cc"}, "data.target", "t.csv has no column 'cc'; did you mean 'c'?"),
        ({"target": ["c", "dd"]}, "data.target", "t.csv has no column 'dd'; known: a, b, c"),
        ({"drop": ["B"]}, "data.drop", "t.csv has no column 'B'; known: a, b, c"),
        ({"split": {"group": "g"}}, "data.split.group", "t.csv has no column 'g'; known: a, b, c"),
        ({"unlabelled": "more.csv"}, "data.unlabelled", "there is no such file or folder: more.csv"),
    ],
)  # fmt: skip
def test_data_that_is_not_here_is_missed(data: dict[str, Any], place: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    table = {} if "source" in data else {"source": "table", "path": "t.csv", "target": "c"}
    [(found, said)] = lacks(tmp_path, data={**table, **data})
    assert found == place
    assert said.startswith(what)


def test_data_that_is_here_is_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "x.npz").write_bytes(b"")
    for data in (
        {"source": "table", "path": "~/t.csv", "target": "c", "drop": ["a"], "unlabelled": "t.csv"},
        {"source": "folder", "path": "pictures"},
        {"source": "arrays", "path": "x.npz"},
        {"source": "folder", "path": "absent", "fallback": "digits"},  # which stands in
        {"source": "table", "path": "absent.csv", "target": "c", "fallback": "digits", "unlabelled": "absent.csv"},
    ):
        assert lacks(tmp_path, data=data) == []


# --- networks ------------------------------------------------------------------------------------


def teacher(model: str, **keys: Any) -> dict[str, Any]:
    """A recipe whose teacher is this one."""
    return {"teachers": [{"model": model, **keys}]}


TRAINED = {"train": {"epochs": 1}}


@pytest.mark.parametrize(
    ("keys", "place", "what"),
    [
        (teacher("timm/resnet99", **TRAINED), "teachers.0.model", "timm has no model 'resnet99'; did you mean 'resnet"),
        (teacher("timm/resnet50.a1_in1", **TRAINED), "teachers.0.model", "timm has no weights 'a1_in1' of resnet50; "),
        (teacher("timm/local-dir:here", **TRAINED), "teachers.0.model", "there is no such folder: here"),
        (teacher("big.onnx"), "teachers.0.model", "there is no such file: big.onnx"),
        (teacher("own.py:make", **TRAINED), "teachers.0.model", "there is no such file: own.py"),
        (teacher("mlp", weights="w.pth"), "teachers.0.weights", "there is no such file: w.pth"),
        (
            {"student": {"model": "timm/resnt18", "train": {"epochs": 1}}},
            "student.model",
            "timm has no model 'resnt18'; did you mean 'resnet18'",
        ),
        (
            {"assistants": [{"model": "timm/resnt18", "train": {"epochs": 1}}]},
            "assistants.0.model",
            "timm has no model 'resnt18'",
        ),
    ],
)
def test_networks_that_there_are_not_are_missed(keys: dict[str, Any], place: str, what: str, tmp_path: Path) -> None:
    [(found, said)] = lacks(tmp_path, **keys)
    assert found == place
    assert said.startswith(what)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50.a1_in1k", "tv_resnet34", "vit_base_patch16_clip_quickgelu_224.openai"]
)
def test_networks_that_there_are_are_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert lacks(tmp_path, **teacher(f"timm/{name}", **TRAINED)) == []
    assert lacks(tmp_path, **teacher("timm/local-dir:here", **TRAINED)) == []


def test_the_catalogue_is_that_of_timm_itself() -> None:
    """The sources are read without importing timm; what it says of itself once imported is the truth."""
    import timm
    from timm.models import _registry as registry

    names = {*timm.list_models(), *registry.get_deprecated_models()}
    assert set(catalogue._models()) == names  # `misnamed` would ask timm, now that it is imported
    listed = sorted({*timm.list_models(), *timm.list_models(include_tags=True)})[::7]
    assert {name for name in listed if catalogue.misnamed(name)} == set()
    wrong, unsaid = {}, 0
    for name in sorted(listed, key=lambda name: registry._model_to_module[name.partition(".")[0]]):  # file by file
        found, told = catalogue.weights_of(name), timm.get_pretrained_cfg(name)
        said = (told.hf_hub_id or "", told.hf_hub_filename or "", told.url or "") if told else None
        if found is None:
            unsaid += 1
        elif (found.hub, found.file, found.url) != said:
            wrong[name] = found, said
    assert wrong == {}
    assert unsaid < len(listed) / 20  # such names are let pass, and so there may not be many
    assert catalogue.weights_of("tv_resnet34") == catalogue.weights_of("resnet34.tv_in1k") is not None


SOURCE = """
def _cfg(url='', **kwargs):
    return {'url': url, **kwargs}

def _hub(**kwargs):
    return _cfg(hf_hub_id='timm/', **kwargs)

default_cfgs = generate_default_cfgs({
    'one.bare': _cfg(), 'one.first': _cfg(hf_hub_id='timm/'), 'one.best*': _hub(), 'one.far': _cfg('http://far/one.pth'),
    'two.bare': _cfg(), 'two.first': _cfg(hf_hub_id='us/two', hf_hub_filename='two.bin'), 'two.other': _hub(),
    'none.bare': _cfg(), 'odd.first': _hub(), 'odd.other': _cfg(**OTHERS), 'odder': OTHERS, 'name': _cfg(url=FAR),
})
""" + "".join(f"\n@register_model\ndef {name}(): ...\n" for name in ("one", "two", "none", "odd", "odder", "name"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("one", catalogue.Weights("timm/one.best")),
        ("one.best", catalogue.Weights("timm/one.best")),
        ("one.first", catalogue.Weights("timm/one.first")),
        ("one.far", catalogue.Weights(url="http://far/one.pth")),
        ("two", catalogue.Weights("us/two", "two.bin")),
        ("two.other", catalogue.Weights("timm/two.other")),
        ("none", catalogue.Weights()),
        *((name, None) for name in ("odd", "odd.first", "odder", "name", "absent")),
    ],
)
def test_weights_are_those_that_timm_would_choose_or_unsaid(
    name: str, found: catalogue.Weights | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(SOURCE)
    monkeypatch.setattr(catalogue, "_files", lambda: (tmp_path / "own.py",))
    for kept in ("_models", "_source"):
        monkeypatch.setattr(catalogue, kept, functools.cache(getattr(catalogue, kept).__wrapped__))
    assert catalogue.weights_of(name) == found


def test_a_network_that_somebody_added_to_timm_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from timm.models import _registry as registry

    assert catalogue.misnamed("of_ones_own")
    monkeypatch.setitem(registry._model_entrypoints, "of_ones_own", timm.create_model)
    assert catalogue.misnamed("of_ones_own") is None


# --- weights to fetch ----------------------------------------------------------------------------


ASKED = {"pretrained": True, **TRAINED}


def cached(tmp_path: Path, repository: str, file: str) -> None:
    """A file in the hub's cache."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0a")
    (folder / "snapshots" / "0a").mkdir(parents=True)
    (folder / "snapshots" / "0a" / file).write_bytes(b"")


@pytest.mark.parametrize("keys", [teacher("timm/resnet18", **ASKED), teacher("vgg19-gap", **ASKED)])
def test_weights_that_nobody_can_give_are_missed_with_the_cache_that_was_looked_in(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    [one] = needs.lacking(recipe.load({**PLAIN, **keys}), tmp_path)
    assert one.place == "teachers.0.pretrained"
    assert one.what.startswith(f"the weights of {keys['teachers'][0]['model']} are not in {tmp_path / 'hub'}, and ")
    assert one.what.endswith("cannot be reached")
    assert one.hint == "give a file as `weights`, or train from scratch with `pretrained: false`"


def test_weights_that_the_hub_may_have_are_not(somebody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", somebody)
    assert lacks(tmp_path, **teacher("timm/resnet18", **ASKED)) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    [(_, said)] = lacks(tmp_path, **teacher("timm/resnet18", **ASKED))
    assert said.endswith(", and HF_HUB_OFFLINE says not to fetch them")


@pytest.mark.parametrize(
    ("model", "repository", "file"),
    [
        ("timm/resnet18", "timm/resnet18.a1_in1k", "model.safetensors"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k", "pytorch_model.bin"),
        ("timm/tv_resnet34", "timm/resnet34.tv_in1k", "model.safetensors"),
        ("vgg19-gap", "timm/vgg19.tv_in1k", "model.safetensors"),
    ],
)
def test_weights_in_the_cache_need_no_hub(model: str, repository: str, file: str, tmp_path: Path) -> None:
    cached(tmp_path, "timm/another", file)
    assert len(lacks(tmp_path, **teacher(model, **ASKED))) == 1
    cached(tmp_path, repository, file)
    assert lacks(tmp_path, **teacher(model, **ASKED)) == []


def test_a_network_on_the_hub_needs_its_description_at_least(tmp_path: Path) -> None:
    [(place, said)] = lacks(tmp_path, **teacher("timm/hf-hub:us/net", **TRAINED))
    assert place == "teachers.0.model"
    assert said.startswith("the weights of timm/hf-hub:us/net are not in ")
    cached(tmp_path, "us/net", "config.json")
    assert lacks(tmp_path, **teacher("timm/hf-hub:us/net", **TRAINED)) == []
    assert len(lacks(tmp_path, **teacher("timm/hf-hub:us/net", **ASKED))) == 1
    (tmp_path / "hub" / "models--us--net" / "snapshots" / "0a" / "model.safetensors").write_bytes(b"")
    assert lacks(tmp_path, **teacher("timm/hf-hub:us/net", **ASKED)) == []


def test_weights_from_another_place_are_looked_for_where_torch_keeps_them(
    somebody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = catalogue.Weights(url=f"{nobody()}/v0.1/net-12ab.pth")
    monkeypatch.setattr(weights, "weights_of", lambda name: there)
    [(_, said)] = lacks(tmp_path, **teacher("timm/resnet18", **ASKED))
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in said
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "net-12ab.pth").write_bytes(b"")
    assert lacks(tmp_path, **teacher("timm/resnet18", **ASKED)) == []
    there = catalogue.Weights(url=f"{somebody}/other.pth")
    assert lacks(tmp_path, **teacher("timm/resnet18", **ASKED)) == []
    there = catalogue.Weights()
    [(_, said)] = lacks(tmp_path, **teacher("timm/resnet18", **ASKED))
    assert said == "timm has no weights of resnet18"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MobileNetV3Small", "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"),
        ("EfficientNetV2B0", "efficientnetv2-b0_notop.h5"),
        ("NASNetMobile", "NASNet-mobile-no-top.h5"),
        ("VGG19", "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ],
)
def test_weights_of_keras_are_looked_for_where_keras_keeps_them(
    name: str, file: str, somebody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(_, said)] = lacks(tmp_path, **teacher(f"keras/{name}", **ASKED))
    assert said.startswith(f"the weights of keras/{name} are not in {tmp_path / 'keras' / 'models'}, and ")
    (tmp_path / "keras" / "models").mkdir(parents=True)
    (tmp_path / "keras" / "models" / "xception_notop.h5").write_bytes(b"")
    assert len(lacks(tmp_path, **teacher(f"keras/{name}", **ASKED))) == 1
    (tmp_path / "keras" / "models" / file).write_bytes(b"")
    assert lacks(tmp_path, **teacher(f"keras/{name}", **ASKED)) == []
    monkeypatch.setattr(weights, "KERAS", somebody)
    assert lacks(tmp_path, **teacher("keras/ResNet50", **ASKED)) == []


def test_weights_that_are_given_or_not_asked_for_are_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    assert lacks(tmp_path, **teacher("timm/resnet18", weights="w.pth", **ASKED)) == []
    assert lacks(tmp_path, **teacher("timm/resnet18", **TRAINED)) == []


def test_a_network_that_a_run_has_trained_already_does_not_begin_anew(tmp_path: Path) -> None:
    student = {"model": "timm/resnet18", **ASKED}
    keys = {**teacher("timm/resnet18", **ASKED), "student": student}
    assert [place for place, _ in lacks(tmp_path, **keys)] == ["teachers.0.pretrained", "student.pretrained"]
    for stage in ("teacher", "student-seed0"):
        (tmp_path / "runs" / stage).mkdir(parents=True)
        (tmp_path / "runs" / stage / "stage.json").write_text("{}")
    assert lacks(tmp_path, **keys) == []


def test_a_proxy_that_only_the_library_knows_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert lacks(tmp_path, **teacher("timm/resnet18", **ASKED)) == []


# --- libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "module", "place", "extra"),
    [
        ({"export": ["onnx"]}, "onnxscript", "export", "onnx"),
        ({"export": ["litert-int8"]}, "ai_edge_quantizer", "export", "litert"),
        ({"export": ["openvino-int8"]}, "nncf", "export", "openvino"),
        ({"budget": {"size_kb": 10, "runtime": "executorch"}}, "executorch", "budget.runtime", "executorch"),
        (
            {"compress": {"small": [{"quantize": 8, "recover": 1}]}, "export": ["onnx-int8"]},
            "torchao",
            "compress.small",
            "executorch",
        ),
        (teacher("keras/VGG19", **TRAINED), "keras", "teachers.0.model", "keras"),
        (teacher("big.tflite"), "ai_edge_litert", "teachers.0.model", "litert"),
        (teacher("sklearn/Ridge"), "skops", "teachers.0.model", "tables"),
        (teacher("lightgbm/LGBMClassifier"), "lightgbm", "teachers.0.model", "tables"),
        ({"run": {"trackers": ["tensorboard"]}}, "tensorboard", "run.trackers", "tensorboard"),
    ],
)
def test_an_extra_that_is_not_installed_is_missed(
    keys: dict[str, Any], module: str, place: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.tflite").write_bytes(b"")
    assert lacks(tmp_path, **keys) == []
    monkeypatch.setitem(sys.modules, module, None)
    [(found, said)] = lacks(tmp_path, **keys)
    assert found == place
    assert f'needs: pip install "limbeck[{extra}]"' in said


# --- how it is told ------------------------------------------------------------------------------


def test_all_that_is_missing_is_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,x\n")
    text = (
        "data: {source: table, path: t.csv,\n  target: cc}\n"
        "teachers:\n  - train: {epochs: 1}\n    model: timm/resnt18\n"
        "student: {model: mlp, train: {epochs: 1}}\nlosses: {hard: 0.1, kd: 0.9}\n"
    )
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        needs.load("my.yaml")
    assert str(caught.value) == (
        "my.yaml:2: data.target: t.csv has no column 'cc'; did you mean 'c'?\n"
        f"my.yaml:5: teachers.0.model: {catalogue.misnamed('resnt18')}"
    )
    with pytest.raises(UserError) as caught:
        needs.load(yaml.safe_load(text), ["data.path=u.csv"])
    assert str(caught.value).startswith(
        "data.path: there is no such file: u.csv\n  hint: write where it is: data.path="
    )
    with pytest.raises(UserError, match=r"my.yaml:7: losses: there is a teacher, but no loss"):  # and first of all
        needs.load("my.yaml", ["losses.kd=0"])


def test_files_of_a_bundled_recipe_may_be_elsewhere_and_those_of_ones_own_may_not(tmp_path: Path) -> None:
    given = CliRunner().invoke(cli.app, ["check", "sprites-compressed"])
    assert given.exit_code == 0
    assert given.output.splitlines()[1:] == [
        "note: data.path: there is no such folder: data/units",
        "note: student.weights: there is no such file: efficientnet_lite0.pth",
    ]
    (tmp_path / "own.yaml").write_text(recipe.bundled()["sprites-compressed"])
    for words in (["check", "own.yaml"], ["run", "sprites-compressed"], ["doctor", "sprites-compressed"]):
        with pytest.raises(UserError, match=r"data.path: there is no such folder: data/units"):
            CliRunner().invoke(cli.app, words, catch_exceptions=False)
    with pytest.raises(UserError, match=r"sprites-compressed.yaml:\d+: student.model: timm has no model 'resnt18'"):
        CliRunner().invoke(
            cli.app, ["check", "sprites-compressed", "student.model=timm/resnt18"], catch_exceptions=False
        )


@pytest.mark.parametrize("words", [["check"], ["doctor"], ["run", "--quiet"], ["tune", "--trials", "2"]])
def test_every_command_misses_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text(json.dumps({**PLAIN, **teacher("timm/resnet18", **ASKED)}))
    with pytest.raises(UserError, match=r"my.json:1: teachers.0.pretrained: the weights of timm/resnet18 are not in"):
        CliRunner().invoke(cli.app, [words[0], "my.json", *words[1:]], catch_exceptions=False)
    assert not (tmp_path / "runs").exists()
