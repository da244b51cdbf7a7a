"""Models from elsewhere as teachers: files of other runtimes, exported programs, somebody's code."""

import numpy as np
import pytest
import torch
from runs import asked_again, one, tiny
from torch import nn

import limbeck
from limbeck import evaluate, models, recipe
from limbeck.core.errors import UserError
from limbeck.core.types import Batch
from limbeck.data import load, pixels
from limbeck.distill.teachers import external

OWN_CODE = """
from torch import nn

def make(shape, width, hidden=8):
    channels, height, _ = shape
    first = nn.Linear(channels * height * height, hidden)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, width))

def wrong():
    return 3

class Last(nn.Softmax):
    pass

def sure(shape, width):
    return nn.Sequential(make(shape, width), Last(-1))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "run"
    return folder, limbeck.run(tiny(seeds=1, export=["onnx", "litert"]), out=folder)


@pytest.fixture(scope="module")
def digits():
    return load(recipe.load(tiny()).data, "classification")


def network(data, seed=0):
    torch.manual_seed(seed)
    width = data.task.width
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, width))


def onnx_of(model, data, path, *, rows=None, last=False, name="input"):
    """An ONNX file; for a fixed number of rows, with channels last, or both."""
    example = pixels(data, data.train[: rows or 3])
    turned = nn.Sequential(ChannelsFirst(), model) if last else model
    example = example.permute(0, 2, 3, 1).contiguous() if last else example
    shapes = None if rows else ({0: torch.export.Dim("batch", min=1, max=512)},)
    program = torch.onnx.export(
        turned.eval(), (example,), dynamic_shapes=shapes, dynamo=True, verbose=False, input_names=[name]
    )
    program.save(path)
    return path


class ChannelsFirst(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


def spec_of(model, **keys):
    return recipe.load(tiny(teachers=[{"model": str(model), **keys}])).teachers[0]


def brought(model, data, *, trust=False, **keys):
    return external.bring(spec_of(model, **keys), data, trust=trust)


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["onnx", "litert"])
def test_a_file_teaches_as_the_network_it_came_from(finished, tmp_path, format_):
    folder, result = finished
    row = next(m for m in result["models"] if m["format"] == format_)
    again = limbeck.run(tiny(seeds=1, teachers=[{"model": str(folder / row["file"])}]), out=tmp_path / "run")
    teacher = one(again, "teacher")
    assert teacher["metrics"]["accuracy"] == row["metrics"]["accuracy"]
    assert teacher["file"] is None
    assert teacher["cost"]["params"] is None
    assert teacher["cost"]["size_bytes"] == (folder / row["file"]).stat().st_size
    assert teacher["cost"]["latency_ms"] > 0
    assert one(again, "distilled-seed0")["metrics"]["kl"] < 3
    assert again["cache"][0]["rows"] == len(load(recipe.load(tiny()).data, "classification").train)
    # Asked again: the answers are found, since the file is the same.
    more = limbeck.run(tiny(seeds=[5], teachers=[{"model": str(folder / row["file"])}]), out=tmp_path / "more")
    assert more["cache"][0]["asked"] == 0
    assert asked_again(tmp_path / "run") == {"teacher": 0}


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("last", [False, True])
def test_an_onnx_file_is_given_rows_as_it_takes_them(digits, tmp_path, rows, last):
    plain = network(digits)
    model = brought(onnx_of(plain, digits, tmp_path / "m.onnx", rows=rows, last=last), digits)
    x = pixels(digits, digits.train[:70])
    assert torch.allclose(model(x), plain(x), atol=1e-5)


def test_what_the_file_takes_is_said_by_name_or_by_numbers(digits, tmp_path):
    plain = network(digits)
    file, x = onnx_of(plain, digits, tmp_path / "m.onnx"), pixels(digits, digits.train[:5])
    for keys, taken in (
        ({"preprocess": "bytes"}, 255 * x),
        ({"preprocess": "signed"}, 2 * x - 1),
        ({"mean": [0.3], "std": [0.2]}, (x - 0.3) / 0.2),
    ):
        assert torch.allclose(brought(file, digits, **keys)(x), plain(taken), atol=1e-3)


def test_the_published_preprocessings_are_what_they_were():
    x = torch.rand(2, 3, 4, 4)
    mean, std, bgr = models.PREPROCESSING["caffe"]
    given = models.Normalized(nn.Identity(), mean, std, bgr=bgr)(x).numpy()
    wanted = 255 * x.numpy()[:, ::-1] - np.array([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    assert np.allclose(given, wanted, atol=1e-3)
    mean, std, _ = models.PREPROCESSING["imagenet"]
    red = models.Normalized(nn.Identity(), mean, std)(x)[:, 0]
    assert torch.allclose(red, (x[:, 0] - 0.485) / 0.229)


def test_probabilities_become_logits_and_classes_get_the_order_of_the_data(digits, tmp_path):
    plain = network(digits)
    sure = onnx_of(nn.Sequential(plain, nn.Softmax(-1)), digits, tmp_path / "sure.onnx")
    x = pixels(digits, digits.train[:20])
    assert torch.allclose(brought(sure, digits)(x), plain(x).log_softmax(1), atol=1e-4)
    names = list(digits.task.names)
    turned = [*names[3:], *names[:3]]
    model = brought(sure, digits, classes=turned)
    assert torch.allclose(model(x), plain(x).log_softmax(1)[:, [turned.index(n) for n in names]], atol=1e-4)
    with pytest.raises(UserError, match=r"does not know the class '9'\n.*did you mean '90'"):
        brought(sure, digits, classes=[*names[:-1], "90"])
    with pytest.raises(UserError, match="gives no probabilities"):
        brought(onnx_of(plain, digits, tmp_path / "m.onnx"), digits, outputs="probabilities")


def test_a_model_that_knows_more_classes_answers_for_those_of_the_data(digits, tmp_path):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 13))
    names = ["a", *digits.task.names, "b", "c"]
    file = onnx_of(wide, digits, tmp_path / "wide.onnx")
    x = pixels(digits, digits.train[:4])
    assert torch.allclose(brought(file, digits, classes=names)(x), wide(x)[:, 1:11], atol=1e-5)
    with pytest.raises(UserError, match=r"gives \[13\] for one row instead of \[10\]\n.*classes"):
        brought(file, digits)


def test_one_output_for_two_classes_and_values_in_their_own_unit(tmp_path):
    cancer = load(recipe.load(tiny(data={"source": "breast-cancer"})).data, "classification")
    line = nn.Linear(30, 1)
    nn.init.constant_(line.weight, 1e-4)
    x = pixels(cancer, cancer.train[:6])
    for name, model in (("z", line), ("p", nn.Sequential(line, nn.Sigmoid()))):
        file = onnx_of(model, cancer, tmp_path / f"{name}.onnx")
        # Logits that happen to lie in [0, 1] would be taken for probabilities.
        given = brought(file, cancer, outputs="logits" if name == "z" else None)(x).softmax(1)[:, 1]
        assert torch.allclose(given, line(x).sigmoid().flatten(), atol=1e-5)
    diabetes = load(recipe.load("diabetes-regression").data, "regression")
    line, rows = nn.Linear(10, 1), diabetes.test
    file = onnx_of(line, diabetes, tmp_path / "v.onnx")
    teachers = [{"model": str(file)}]
    base = {"name": "v", "task": "regression", "data": {"source": "diabetes"}, "student": {"model": "mlp"}}
    spec = recipe.load({**base, "teachers": teachers, "losses": {"mse": 1.0}}).teachers[0]
    found = evaluate.assess(external.bring(spec, diabetes, trust=False), diabetes, rows)
    error = (line(diabetes.x[rows]) - diabetes.y[rows]).square().mean().sqrt()
    assert found["rmse"] == pytest.approx(error.item(), rel=1e-5)


def test_code_is_run_for_those_only_who_trust_it(digits, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_CODE + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(UserError, match=r"is to run code.*\n.*--trust"):
        brought(f"{path}:make", digits, weights="w.safetensors")
    assert not (tmp_path / "ran").exists()
    program = torch.export.export(network(digits).eval(), (pixels(digits, digits.train[:2]),))
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(UserError, match="is to run code"):
        brought(tmp_path / "m.pt2", digits)


def test_an_exported_program_answers_for_any_number_of_rows(digits, tmp_path):
    plain, x = network(digits).eval(), pixels(digits, digits.train[:7])
    for name, shapes in (("fixed", None), ("free", ({0: torch.export.Dim("batch", min=1, max=512)},))):
        torch.export.save(torch.export.export(plain, (x[:3],), dynamic_shapes=shapes), tmp_path / f"{name}.pt2")
        model = brought(tmp_path / f"{name}.pt2", digits, trust=True)
        assert torch.allclose(model(x), plain(x), atol=1e-5)


@pytest.mark.slow
def test_networks_of_own_code_teach_and_learn(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_CODE)
    train = {"epochs": 2, "batch_size": 32, "lr": 3e-3}
    asked = tiny(
        seeds=1,
        teachers=[{"model": f"{path}:make", "options": {"hidden": 32}, "train": train}],
        student={"model": f"{path}:make", "train": train},
        export=["onnx"],
    )
    with pytest.raises(UserError, match="--trust"):
        limbeck.run(asked, out=tmp_path / "run")
    result = limbeck.run(asked, out=tmp_path / "run", trust=True)
    assert one(result, "student-seed0")["cost"]["params"] == 64 * 8 + 8 + 8 * 10 + 10
    weights = tmp_path / "run" / one(result, "teacher")["file"]
    known = tiny(seeds=1, teachers=[{"model": f"{path}:make", "options": {"hidden": 32}, "weights": str(weights)}])
    data = load(recipe.load(tiny()).data, "classification")
    spec = recipe.load(known).teachers[0].model_copy(update={"mean": [0.0], "std": [1.0]})
    assert spec.asked
    model = external.bring(spec, data, trust=True)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    models.load_weights(plain, weights)
    x = pixels(data, data.test[:9])
    assert torch.allclose(model(x), plain(x), atol=1e-6)
    for name, fault in (("wrong", "gives a int"), ("maek", "did you mean 'make'")):
        with pytest.raises(UserError, match=fault):
            external.load(spec.model_copy(update={"model": f"{path}:{name}", "options": {}}), data, trust=True)


@pytest.mark.parametrize(
    ("teacher", "fault"),
    [
        ({"model": "m.onnx", "train": {"epochs": 2}}, "`train` has no effect with 'm.onnx'"),
        ({"model": "m.onnx", "weights": "w.pth"}, "`weights` has no effect with 'm.onnx'"),
        ({"model": "m.onnx", "options": {"a": 1}}, "`options` has no effect"),
        ({"model": "m.onnx", "preprocess": "caffe", "mean": [0.1], "std": [1.0]}, "`preprocess` stands for"),
        ({"model": "conv-leaky", "weights": "w.pth", "outputs": "logits"}, "`outputs` has no effect"),
        ({"model": "m.onx"}, "unknown model 'm.onx'"),
    ],
)
def test_keys_that_have_no_effect_are_refused(teacher, fault):
    with pytest.raises(UserError, match=fault):
        recipe.load(tiny(teachers=[teacher]))


def test_a_file_cannot_learn():
    with pytest.raises(UserError, match="cannot be trained"):
        recipe.load(tiny(student={"model": "m.onnx"}))


def test_files_that_do_not_fit_are_refused_before_anything_is_trained(digits, tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        limbeck.run(tiny(teachers=[{"model": str(tmp_path / "no.onnx")}]), out=tmp_path / "run")
    (tmp_path / "broken.onnx").write_bytes(b"no model at all")
    with pytest.raises(UserError, match="ONNX Runtime cannot load it"):
        brought(tmp_path / "broken.onnx", digits)
    (tmp_path / "broken.pt2").write_bytes(b"no model at all")
    with pytest.raises(UserError, match=r"torch\.export\.save"):
        brought(tmp_path / "broken.pt2", digits, trust=True)
    table = nn.Linear(7, 10).eval()
    program = torch.onnx.export(table, (torch.zeros(2, 7),), dynamo=True, verbose=False)
    program.save(tmp_path / "table.onnx")
    with pytest.raises(UserError, match=r"takes rows \[7\], and the data's are \[1, 8, 8\]"):
        brought(tmp_path / "table.onnx", digits)


def test_a_feature_cannot_be_had_from_a_file(finished, tmp_path):
    folder, result = finished
    file = folder / next(m["file"] for m in result["models"] if m["format"] == "onnx")
    losses = {"hard": 0.1, "kd": 0.9, "fitnet": "auto"}
    with pytest.raises(UserError, match=r"no features|has no"):
        limbeck.run(tiny(teachers=[{"model": str(file)}], losses=losses), out=tmp_path / "run")


def test_what_is_asked_is_its_own_copy_and_knows_rows_by_number():
    asked = []

    def answers(rows):
        asked.append(len(rows))
        return np.asarray(rows, dtype=np.float64)[:, None] * [1.0, 2.0]

    model = models.ExternalModel(answers, digest="x", keyed=True)
    index = torch.arange(150)
    batch = Batch(torch.zeros(150, 3), index, index)
    frozen = limbeck.Frozen(model, probabilities=False)
    found = frozen(batch).prediction
    assert asked == [64, 64, 22]
    assert torch.equal(found, index[:, None] * torch.tensor([[1.0, 2.0]]))
    assert models.given(nn.Linear(3, 2), batch) is batch.x
