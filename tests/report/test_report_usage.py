"""The programs on the page: each runs in a fresh process on a real file, and answers what the network answers."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import need
from report_samples import alone, classification, regression, typed
from report_samples_compressed import compressed

from limbeck import recipe
from limbeck.report.usage import inputs, usage

EVIL = "<script>alert(1)</script>"


def run_program(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program["code"]], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def program_for(result, fmt):
    return next(p for p in usage(typed(result)) if p["title"] == fmt)


def brightest(tmp_path):
    """A network that names the class of the brightest of three pixels, and a picture whose second is the brightest."""
    import torch
    from PIL import Image

    picture = Image.new("L", (3, 1))
    picture.putdata([10, 200, 30])
    picture.save(tmp_path / "picture.png")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
    network[1].weight.data, network[1].bias.data = 5 * torch.eye(3), torch.zeros(3)
    result = classification(("left", "middle", "right"), seeds=1)
    result["data"]["shape"] = [1, 1, 3]
    return network, result


def test_the_onnx_program_runs(tmp_path):
    need(find_spec("onnx") is not None and find_spec("onnxruntime") is not None, "onnx and onnxruntime")
    import onnx
    from onnx import TensorProto, helper

    network, result = brightest(tmp_path)
    weight = helper.make_tensor("weight", TensorProto.FLOAT, (3, 3), network[1].weight.detach().flatten().tolist())
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["output"])],
        "brightest",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 1, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    program = program_for(result, "ONNX")
    (tmp_path / "export").mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, tmp_path / program["file"])
    assert run_program(program, tmp_path) == "middle"


@pytest.mark.slow
def test_the_litert_program_runs(tmp_path):
    need(find_spec("litert_torch") is not None and find_spec("ai_edge_litert") is not None, "litert-torch")
    import torch

    from limbeck.export import to_litert

    network, result = brightest(tmp_path)
    program = program_for(result, "LiteRT")
    to_litert(network, torch.zeros(1, 1, 1, 3), tmp_path / program["file"])
    assert run_program(program, tmp_path) == "middle"


def test_the_pytorch_program_runs_with_the_normalisation_in_the_file(tmp_path):
    from limbeck.models import Normalized, build, save_weights

    _, result = brightest(tmp_path)
    spec = recipe.Network(model="mlp", options={"hidden": [4]})
    result["recipe"]["student"] |= {"model": "mlp", "options": {"hidden": [4]}}
    program = program_for(result, "PyTorch")
    model = Normalized(build(spec, (1, 1, 3), 3), [0.25], [0.5]).eval()
    save_weights(model, tmp_path / program["file"])
    program["code"] += "\nprint(model.mean.tolist(), model.std.tolist(), *outputs[0].tolist())"
    *statistics, first, second, third = run_program(program, tmp_path).rsplit(" ", 3)
    assert statistics == ["[0.25] [0.5]"]
    import torch

    expected = model(torch.zeros(1, 1, 1, 3))[0].tolist()
    assert [float(first), float(second), float(third)] == pytest.approx(expected, abs=1e-6)


def test_the_pytorch_program_builds_a_head_of_means_and_variances(tmp_path):
    """Built with one output a value, it would keep a random head where the trained one does not fit."""
    import torch

    from limbeck.models import Normalized, build, save_weights

    result = regression()
    result["recipe"]["student"] |= {"model": "mlp", "options": {"hidden": [4]}}
    result["data"] |= {"shape": [3], "outputs": 4}
    program = program_for(result, "PyTorch")
    model = Normalized(build(recipe.Network(model="mlp", options={"hidden": [4]}), (3,), 4), [0.25], [0.5]).eval()
    (tmp_path / program["file"]).parent.mkdir(parents=True, exist_ok=True)
    save_weights(model, tmp_path / program["file"])
    code, program["code"] = program["code"], program["code"] + "\nprint(*outputs[0].tolist())"
    found = [float(value) for value in run_program(program, tmp_path).split()]
    assert found == pytest.approx(model(torch.zeros(1, 3))[0].tolist(), abs=1e-6)
    assert "logarithms of variances" in code
    # Where it is not known how many there are, as in older results, weights that do not fit are refused.
    del result["data"]["outputs"]
    with pytest.raises(AssertionError, match="do not fit the network"):
        run_program(program_for(result, "PyTorch"), tmp_path)


def test_programs_name_values_or_many_classes():
    code = program_for(regression(), "ONNX")["code"]
    assert 'dict(zip(["weight", "waist"], outputs[0].tolist()))' in code
    assert "np.zeros((1, 10), np.float32)" in code
    assert "classes.json" in program_for(classification([str(i) for i in range(30)], seeds=1), "ONNX")["code"]
    compile(program_for(classification((EVIL, 'a"b', "c\\"), seeds=1), "ONNX")["code"], "program", "exec")


# --- runtimes, raw pixels and channels last --------------------------------------------------------


def asked(result, form, **files):
    """The result with a file of this format, which takes what `files` says."""
    result["recipe"]["files"] = {"input": "float32", "layout": "nchw", "batches": [1], **files}
    exported = next(m for m in result["models"] if m["role"] == "exported")
    suffix = {"executorch": ".pte", "openvino": ".xml", "litert": ".tflite", "onnx": ".onnx", "keras": ".keras"}[form]
    own = exported | {"format": form, "file": f"export/brightest{suffix}"}
    result["models"] = [m for m in result["models"] if m["role"] != "exported"] + [own]
    return own["file"]


RAW = {"input": "uint8", "layout": "nhwc"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "title", "module", "files"),
    [
        ("executorch", "ExecuTorch", "executorch", RAW),
        ("openvino", "OpenVINO", "openvino", RAW),
        ("onnx", "ONNX", "onnxscript", RAW),
        ("litert", "LiteRT", "litert_torch", RAW | {"batches": [1, 64]}),
        ("litert", "LiteRT", "litert_torch", {"batches": [8]}),
    ],
)
def test_the_program_runs_the_file_of_its_runtime(tmp_path, form, title, module, files):
    need(find_spec(module) is not None, module)
    import torch

    from limbeck import export

    network, result = brightest(tmp_path)
    file = tmp_path / asked(result, form, **files)
    file.parent.mkdir()
    given = {key: files[key] for key in ("input", "layout") if key in files}
    interface = export.Interface(**given, batches=tuple(files.get("batches", (1,))))
    export.to(form, network, torch.zeros(2, 1, 1, 3), file, interface)
    assert run_program(program_for(result, title), tmp_path) == "middle"


@pytest.mark.slow
def test_the_program_runs_a_file_of_keras(tmp_path):
    need(find_spec("keras") is not None, "Keras")
    import torch

    from limbeck import export
    from limbeck.models import KerasNetwork
    from limbeck.models.keras.backend import making

    _, result = brightest(tmp_path)
    with making() as keras:
        model = keras.Sequential([keras.Input((1, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    network = KerasNetwork(model, (1, 1, 3))
    network.get_parameter("dense-1.kernel").data = 5 * torch.eye(3)
    file = tmp_path / asked(result, "keras", **RAW)
    file.parent.mkdir()
    export.to("keras", network, torch.zeros(2, 1, 1, 3), file, export.Interface(**RAW))
    assert run_program(program_for(result, "Keras"), tmp_path) == "middle"


def test_the_program_for_weights_of_keras_builds_a_model_of_keras():
    result = classification(seeds=1)
    assert "framework" not in program_for(result, "PyTorch")["code"]
    assert (
        'framework="keras")'
        in program_for(result | {"recipe": result["recipe"] | {"framework": "keras"}}, "PyTorch")["code"]
    )
    result["recipe"]["student"] |= {"model": "keras/VGG16", "preprocess": "caffe"}
    code = program_for(result, "PyTorch")["code"]
    assert 'model="keras/VGG16"' in code
    assert 'preprocess="caffe"' in code
    assert "Normalized(plain, mean, std, bgr=True)" in code
    result["recipe"]["student"]["model"] = "own.keras"
    assert not [p for p in usage(typed(result)) if p["title"] == "PyTorch"]


def test_colour_pictures_are_turned_as_the_file_wants_them():
    result = classification(seeds=1)
    result["data"]["shape"] = [3, 8, 9]
    asked(result, "onnx")
    assert "pixels.transpose(2, 0, 1)[None]" in program_for(result, "ONNX")["code"]
    asked(result, "onnx", **RAW)
    code = program_for(result, "ONNX")["code"]
    assert "np.asarray(image, np.uint8)\nx = np.ascontiguousarray(pixels[None])" in code


def test_what_files_take_is_said_where_it_is_not_what_the_weights_take():
    result = classification(seeds=1)
    assert inputs(typed(result)).startswith("All take float32 pixels in [0, 1], shape [1, 1, 28, 28]: batch, channels,")
    result["recipe"]["files"] = RAW
    assert inputs(typed(result)) == (
        "Exported files take raw uint8 pixels from 0 to 255, shape [1, 28, 28, 1]: batch, height, width, channels; "
        "PyTorch weights float32 pixels in [0, 1], shape [1, 1, 28, 28]: batch, channels, height, width. Exported "
        "files normalise them inside and give one logit for each class."
    )
    table = regression()
    table["recipe"]["files"] = RAW
    assert inputs(typed(table)).startswith("All take the table's columns as float32, shape [1, 10].")
    result = alone()
    result["recipe"]["files"] = RAW
    assert inputs(typed(result)).startswith("All take float32 pixels")


def test_one_program_serves_all_files_of_a_runtime():
    result = compressed(formats=("litert", "litert-int8", "onnx"))
    shown = usage(typed(result))
    assert [p["title"] for p in shown] == ["LiteRT", "ONNX", "PyTorch", "PyTorch, made smaller"]
    # the student and four ways in two LiteRT formats, and the way that learned quantized in integers alone
    assert [p["others"] for p in shown] == [5 * 2 + 1 - 1, 5 - 1, 0, 0]
    assert shown[0]["file"] == "export/distilled-seed0.tflite"


@pytest.mark.slow
def test_the_program_for_a_smaller_student_builds_it_again(tmp_path):
    import torch

    from limbeck import compress
    from limbeck.models import Normalized, build

    spec = recipe.Network(model="mlp", options={"hidden": [16]})
    _, result = brightest(tmp_path)
    result["recipe"]["student"] |= {"model": "mlp", "options": {"hidden": [16]}}
    file = "half-seed0/model.safetensors"
    smaller = compressed(ways=("half",))
    row = next(m for m in smaller["models"] if m["name"] == "half-seed0")
    result |= {"models": [*result["models"], row | {"file": file}], "compressed": smaller["compressed"]}
    x, network = torch.zeros(2, 1, 1, 3), Normalized(build(spec, (1, 1, 3), 3), [0.25], [0.5]).eval()
    edit = compress.plan_prune(network.model, x, ratio=0.5, importance="magnitude")
    made = Normalized(compress.apply(network.model, edit), network.mean, network.std).eval()
    compress.save(made, [edit], tmp_path / file)
    program = program_for(result, "PyTorch, made smaller")
    program["code"] += "\nprint(sum(p.numel() for p in model.parameters()), *outputs[0].tolist())"
    count, *outputs = run_program(program, tmp_path).split()
    assert int(count) == 3 * 8 + 8 + 8 * 3 + 3
    assert [float(v) for v in outputs] == pytest.approx(made(torch.zeros(1, 1, 1, 3))[0].tolist(), abs=1e-6)


def test_no_program_builds_a_student_that_learned_rounded():
    titles = [p["title"] for p in usage(typed(compressed(ways=("rounded",))))]
    assert titles == ["LiteRT", "ONNX", "ExecuTorch", "OpenVINO", "PyTorch"]
