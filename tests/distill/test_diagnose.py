"""Faults are planted in good teachers on real data, each must be found, and a good teacher must not be suspected."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import tiny
from sklearn.linear_model import LogisticRegression, RidgeCV
from torch import nn

from limbeck import evaluate, models, recipe
from limbeck.data import load, pixels, targets
from limbeck.distill.teachers import diagnose
from limbeck.distill.teachers.diagnose import alignment
from limbeck.distill.teachers.external.outputs import Read

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return load(recipe.load(tiny(data={"source": "digits"})).data, "classification")


@pytest.fixture(scope="module")
def diabetes():
    data = {"source": "diabetes", "split": {"val": 0.4, "test": 0.1}}
    return load(recipe.load(tiny(data=data, **VALUES)).data, "regression")


VALUES = {"task": "regression", "losses": {"label_mse": 0.5, "mse": 0.5}}


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], len(weight))
    layer.weight.data, layer.bias.data = (torch.as_tensor(v, dtype=torch.float32) for v in (weight, bias))
    return layer


@pytest.fixture(scope="module")
def plain(digits):
    """A logistic regression by scikit-learn on pixels normalised as `signed` is."""
    x = 2 * pixels(digits, digits.train).flatten(1).numpy() - 1
    fitted = LogisticRegression(C=0.3, max_iter=500).fit(x, digits.y[digits.train].numpy())
    return nn.Sequential(nn.Flatten(), linear(fitted.coef_, fitted.intercept_))


def taken(model, preprocess="signed", order=None):
    mean, std, bgr = models.PREPROCESSING[preprocess]
    return models.Normalized(model, mean, std, bgr=bgr, order=order)


def spec_of(**keys):
    return recipe.load(tiny(teachers=[{"model": "teacher.onnx", **keys}])).teachers[0]


def examined(network, data, spec=None):
    network.eval()
    prediction = evaluate.predict(network, data, data.val)
    return diagnose.examine("teacher", network, spec or spec_of(), data, prediction, CPU)


def told(found):
    return [one.what for one in found if one.level != "ok"]


def one(found, what):
    return next(finding for finding in found if finding.what == what)


def accuracy(network, data):
    prediction = evaluate.predict(network.eval(), data, data.val)
    return float((prediction.argmax(1) == data.y[data.val]).double().mean())


# --- a healthy teacher ---------------------------------------------------------------------------


def test_nothing_is_said_against_a_good_teacher(digits, plain):
    found = examined(taken(plain), digits)
    assert told(found) == []
    assert [finding.what for finding in found] == ["numbers", "steadiness", "inputs", "temperature"]
    assert one(found, "inputs").figures["as_it_is"] > 0.9


def test_nor_against_one_that_was_trained_here(digits):
    torch.manual_seed(0)
    network = models.Normalized(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits.inputs.mean, digits.inputs.std)
    x, y = pixels(digits, digits.train), digits.y[digits.train]
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    assert told(examined(network, digits)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_teacher_that_knows_nothing_is_not_called_anything_else(digits, seed):
    torch.manual_seed(seed)
    network = taken(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
    assert told(examined(network, digits)) == []


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_teacher_that_is_merely_bad_is_in_order(digits, plain, share):
    """Whatever a bad teacher confuses, no order of its classes makes it a good one."""
    torch.manual_seed(1)
    noisy = nn.Sequential(nn.Flatten(), linear(plain[1].weight.data.clone(), plain[1].bias.data.clone()))
    scale = noisy[1].weight.data.std() * 6 * share
    noisy[1].weight.data += scale * torch.randn_like(noisy[1].weight.data)
    assert accuracy(taken(noisy), digits) < 0.8
    assert "classes" not in told(examined(taken(noisy), digits))


# --- inputs --------------------------------------------------------------------------------------


def learned(data, preprocess):
    """A small convolutional network that learned with its inputs normalised so."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    x, y = taken(nn.Identity(), preprocess)(pixels(data, data.train)), data.y[data.train]
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


@pytest.mark.parametrize(("right", "wrong"), [("signed", "bytes"), ("unit", "signed"), ("bytes", "unit")])
def test_another_normalisation_is_found_by_trying(digits, right, wrong):
    network = learned(digits, right)
    finding = one(examined(taken(network, wrong), digits), "inputs")
    level, right_level = (accuracy(taken(network, way), digits) for way in (wrong, right))
    assert level < right_level - 0.05
    assert finding.level == "warning"
    assert finding.hint == f"write `preprocess: {right}`"
    assert finding.figures["as_it_is"] == pytest.approx(level)
    assert finding.figures["best_other"] == pytest.approx(right_level)
    assert "p < 0.001" in finding.text


def test_the_data_s_own_statistics_are_written_out(digits, plain):
    shift, scale = digits.inputs.mean.item(), digits.inputs.std.item()
    x = pixels(digits, digits.train).flatten(1).numpy()
    fitted = LogisticRegression(C=0.3, max_iter=500).fit((x - shift) / scale, digits.y[digits.train].numpy())
    own = nn.Sequential(nn.Flatten(), linear(fitted.coef_, fitted.intercept_))
    finding = one(examined(taken(nn.Sequential(own, nn.Tanh()), "bytes"), digits), "inputs")
    assert finding.hint == f"write `mean: [{shift:.4f}]` and `std: [{scale:.4f}]`"
    # What the hint says is what makes it right.
    assert accuracy(models.Normalized(nn.Sequential(own, nn.Tanh()), [shift], [scale]), digits) > 0.9


@pytest.mark.parametrize(
    ("turn", "words"),
    [(lambda x: x.transpose(2, 3), "rows and columns"), (lambda x: -x, "light and dark")],
)
def test_turned_and_inverted_images_are_found(digits, plain, turn, words):
    class Turned(nn.Module):
        def forward(self, x):
            return plain(turn(x))

    finding = one(examined(taken(Turned()), digits), "inputs")
    assert finding.level == "warning"
    assert words in finding.text


def test_blue_first_is_found(digits):
    """Coloured digits: the digit in red, noise in blue, and a teacher that was taught blue first."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, digits.x.shape, generator=draw, dtype=torch.uint8)
    x = torch.cat([digits.x, torch.zeros_like(digits.x), noise], 1)
    scaling = replace(digits.inputs, mean=torch.full((3,), 0.4), std=torch.full((3,), 0.3))
    data = replace(digits, x=x, inputs=scaling)
    seen = pixels(data, data.train).flip(1)
    fitted = LogisticRegression(C=0.3, max_iter=300).fit(seen.flatten(1).numpy(), data.y[data.train].numpy())
    network = nn.Sequential(nn.Flatten(), linear(fitted.coef_, fitted.intercept_))
    finding = one(examined(models.Normalized(network, [0.0] * 3, [1.0] * 3), data), "inputs")
    assert "red and blue exchanged" in finding.text
    assert told(examined(models.Normalized(network, [0.0] * 3, [1.0] * 3, bgr=True), data)) == []


def test_two_faults_at_once_are_both_told(digits):
    """Another normalisation and another order: neither hides the other, and neither is taken for the other."""
    network = learned(digits, "signed")
    outputs = torch.roll(torch.arange(10), 4)
    turned = nn.Sequential(*network[:-1], linear(network[-1].weight.data[outputs], network[-1].bias.data[outputs]))
    found = examined(taken(turned, "bytes"), digits)
    assert {what: one(found, what).hint for what in told(found)} == {
        "inputs": "write `preprocess: signed`",
        "classes": "write `classes: [" + ", ".join(f'"{n}"' for n in outputs.tolist()) + "]`",
    }
    assert told(examined(taken(turned), digits)) == ["classes"]


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [2, 5, 10])
def test_classes_in_another_order_are_written_out(digits, plain, moved):
    names = list(digits.task.names)
    turned = [*names[1:moved], names[0], *names[moved:]]  # output n is the class turned[n]
    outputs = torch.tensor([names.index(name) for name in turned])
    network = nn.Sequential(nn.Flatten(), linear(plain[1].weight.data[outputs], plain[1].bias.data[outputs]))
    finding = one(examined(taken(network), digits), "classes")
    assert finding.level == "warning"
    assert f"{moved} of 10 classes" in finding.text
    assert finding.hint == "write `classes: [" + ", ".join(f'"{name}"' for name in turned) + "]`"
    assert finding.figures["in_order"] == pytest.approx(accuracy(taken(plain), digits))
    # Written so, nothing is left to say.
    spec = spec_of(classes=turned)
    order = torch.tensor([turned.index(name) for name in names])
    assert told(examined(taken(network, order=order), digits, spec)) == []


def test_a_wrong_order_in_the_recipe_is_put_right_among_more_classes_than_the_data_has(digits, plain):
    names = list(digits.task.names)
    wide = nn.Sequential(nn.Flatten(), linear(nn.functional.pad(plain[1].weight.data, (0, 0, 2, 0)), torch.zeros(12)))
    true = ["x", "y", *names]
    said = ["x", "y", *names[5:], *names[:5]]
    order = torch.tensor([said.index(name) for name in names])
    finding = one(examined(taken(wide, order=order), digits, spec_of(classes=said)), "classes")
    assert finding.hint == "write `classes: [" + ", ".join(f'"{name}"' for name in true) + "]`"


def test_with_few_rows_nothing_is_said_of_the_order(digits, plain):
    few = replace(digits, val=digits.val[:40])
    outputs = torch.roll(torch.arange(10), 1)
    network = nn.Sequential(nn.Flatten(), linear(plain[1].weight.data[outputs], plain[1].bias.data[outputs]))
    assert "classes" in told(examined(taken(network), digits))
    assert "classes" not in told(examined(taken(network), few))


def test_a_softmax_is_told_and_two_of_them_are_too_many(digits, plain):
    sure = nn.Sequential(nn.Flatten(), linear(3 * plain[1].weight.data, 3 * plain[1].bias.data), nn.Softmax(-1))

    def read(model):
        return Read(model, models.log_probabilities, "log")

    once = examined(taken(read(sure)), digits)
    assert told(once) == []
    assert "ends in a softmax" in one(once, "softmax").text
    twice = examined(taken(read(nn.Sequential(sure, nn.Softmax(-1)))), digits)
    assert told(twice) == ["softmax"]
    assert "a softmax to a softmax" in one(twice, "softmax").hint
    mistaken = examined(taken(sure), digits, spec_of(outputs="logits"))
    assert one(mistaken, "softmax").hint == "write `outputs: probabilities`"


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_is_the_one_that_the_teacher_was_heated_by(digits, plain, scale):
    heated = nn.Sequential(nn.Flatten(), linear(scale * plain[1].weight.data, scale * plain[1].bias.data))
    logits, truth = evaluate.predict(taken(plain), digits, digits.val).double(), digits.y[digits.val]
    grid = np.exp(np.linspace(np.log(0.05), np.log(5), 400))  # the same, by trying
    best = grid[np.argmin([float(nn.functional.cross_entropy(logits / t, truth)) for t in grid])]
    finding = one(examined(taken(heated), digits), "temperature")
    assert finding.figures["temperature"] == pytest.approx(scale * best, rel=0.03)
    assert finding.level == ("note" if scale * best < 0.25 else "ok")


def test_no_row_is_judged_by_an_order_that_was_made_for_it():
    draw = torch.Generator().manual_seed(0)
    truth, said = (torch.randint(0, 40, (160,), generator=draw) for _ in range(2))
    orders = alignment.orders(truth, said, 40)
    assert float((said == orders.whole[truth]).double().mean()) > 0.2  # which is what luck and 40 choices make of noise
    assert float(orders.hits(truth, said).double().mean()) < 0.08
    assert torch.equal(alignment.recognised(truth, said, 40), said == truth)


def test_several_labels_are_looked_at_too(digits):
    """Even, above four, a three or an eight; as a network learned them from pixels normalised as `signed` is."""
    label = digits.y[:, None]
    y = torch.cat([label % 2 == 0, label > 4, (label == 3) | (label == 8)], 1).float()
    data = replace(digits, y=y, task=replace(digits.task, kind="multilabel", names=("even", "large", "round")))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    x, wanted = taken(nn.Identity())(pixels(data, data.train)), y[data.train]
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(x), wanted).backward()
        optimizer.step()
    assert told(examined(taken(network), data)) == []
    assert one(examined(taken(network, "bytes"), data), "inputs").hint == "write `preprocess: signed`"
    line, name = diagnose.straight_line(data)
    good = evaluate.predict(taken(network).eval(), data, data.val)
    assert diagnose.weaker("teacher", good, data, line, name).level == "ok"
    assert diagnose.weaker("teacher", -good, data, line, name).level == "warning"
    assert [finding.level for finding in diagnose.survey(data)] == ["ok"]


# --- values --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ridge(diabetes):
    """A ridge regression by scikit-learn from raw columns to values in their own unit."""
    x, y = pixels(diabetes, diabetes.train), diabetes.y[diabetes.train]
    fitted = RidgeCV().fit(x.numpy(), y.numpy().ravel())
    return linear(fitted.coef_.reshape(1, -1), np.atleast_1d(fitted.intercept_))


def standardised(model, data):
    return Read(model, lambda y: (y - data.targets.mean) / data.targets.std, "standardised")


def test_values_in_their_own_unit_are_fine(diabetes, ridge):
    assert told(examined(taken(standardised(ridge, diabetes), "unit"), diabetes, value_spec())) == []


def value_spec(**keys):
    return recipe.load(tiny(data={"source": "diabetes"}, **VALUES, teachers=[{"model": "t.onnx", **keys}])).teachers[0]


def test_values_in_another_unit_are_found(diabetes, ridge):
    already = standardised(ridge, diabetes)
    finding = one(examined(taken(standardised(already, diabetes), "unit"), diabetes, value_spec()), "unit")
    assert finding.hint == "write `outputs: standardised`"
    finding = one(examined(taken(ridge, "unit"), diabetes, value_spec(outputs="standardised")), "unit")
    assert finding.hint == "leave `outputs: standardised` out"
    prediction = evaluate.predict(taken(ridge, "unit").eval(), diabetes, diabetes.val)
    truth = targets(diabetes, diabetes.val).numpy().ravel()
    assert finding.figures["rescaled"] == pytest.approx(
        np.corrcoef(prediction.numpy().ravel(), truth)[0, 1] ** 2, abs=0.05
    )
    thousands = Read(ridge, lambda y: (y / 1000 - diabetes.targets.mean) / diabetes.targets.std, "thousands")
    assert "own unit" in one(examined(taken(thousands, "unit"), diabetes, value_spec()), "unit").hint


def test_columns_that_were_standardised_are_found(diabetes, ridge):
    mean, std = diabetes.inputs.mean, diabetes.inputs.std
    own = standardised(linear(ridge.weight.data * std, ridge(mean[None])[0].detach()), diabetes)
    finding = one(examined(taken(own, "unit"), diabetes, value_spec()), "inputs")
    assert finding.level == "warning"
    assert finding.hint == "write neither `preprocess` nor `mean` and `std`"


# --- steadiness, numbers -------------------------------------------------------------------------


class Stuck(nn.Module):
    """A layer that does not care for the mode it is put in."""

    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def forward(self, x):
        return self.ask(x)


def test_dropout_that_is_switched_on_is_found(digits, plain):
    stuck = Stuck(lambda x: nn.functional.dropout(x, 0.3, training=True))
    finding = one(examined(taken(nn.Sequential(stuck, plain)), digits), "steadiness")
    assert finding.level == "warning"
    assert "from call to call" in finding.text


def test_batch_norm_in_training_mode_is_found(digits, plain):
    stuck = Stuck(lambda x: nn.functional.batch_norm(x, None, None, training=True))
    finding = one(examined(taken(nn.Sequential(plain, stuck)), digits), "steadiness")
    assert finding.level == "warning"
    assert "other rows of the batch" in finding.text
    assert ".eval()" in finding.hint
    running = nn.BatchNorm1d(10)
    running(plain(2 * pixels(digits, digits.train) - 1))
    assert told(examined(taken(nn.Sequential(plain, running)), digits)) == []


def test_answers_that_are_no_numbers_are_counted(digits, plain):
    cut = Stuck(lambda x: x.where(x.amax(1, keepdim=True) < x.amax(1).quantile(0.99), torch.tensor(float("nan"))))
    found = examined(taken(nn.Sequential(plain, cut)), digits)
    assert told(found) == ["numbers"]
    assert found[0].figures["rows"] >= 1
    mixed = taken(plain)
    mixed.register_parameter("extra", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    assert one(examined(mixed, digits), "numbers").text == "has weights in float64"


# --- worth ---------------------------------------------------------------------------------------


def test_a_straight_line_that_is_better_is_told(digits, plain):
    line, name = diagnose.straight_line(digits)
    assert name == f"a linear model fitted on {len(digits.train):,} training rows"
    assert float((line.argmax(1) == digits.y[digits.val]).double().mean()) > 0.9
    good = evaluate.predict(taken(plain), digits, digits.val)
    assert diagnose.weaker("teacher", good, digits, line, name).level == "ok"
    poor = good.clone()
    poor[::4] = poor[::4].roll(1, 1)
    finding = diagnose.weaker("teacher", poor, digits, line, name)
    assert finding.level == "warning"
    assert finding.text.startswith("A linear model fitted on 1,222 training rows is better than this teacher: 7")


def test_a_straight_line_through_values(diabetes, ridge):
    line, name = diagnose.straight_line(diabetes)
    own = evaluate.predict(taken(standardised(ridge, diabetes), "unit"), diabetes, diabetes.val)
    assert line.shape == own.shape
    assert diagnose.weaker("teacher", own, diabetes, line, name).level == "ok"
    assert diagnose.weaker("teacher", torch.zeros_like(own), diabetes, line, name).level == "warning"


# --- rows ----------------------------------------------------------------------------------------


def test_sound_rows_are_sound(digits):
    assert [finding.level for finding in diagnose.survey(digits)] == ["ok"]


def test_rows_on_two_sides_are_counted(digits):
    x = digits.x.clone()
    x[digits.test[:30]] = x[digits.train[:30]]
    x[digits.val[:2]] = x[digits.train[30:32]]
    found = diagnose.survey(replace(digits, x=x))
    assert [(f.level, f.figures["rows"]) for f in found if f.what == "duplicates"] == [("note", 2), ("warning", 30)]
    torn = one(found, "labels") if any(f.what == "labels" for f in found) else None
    wanted = int((digits.y[digits.val[:2]] != digits.y[digits.train[30:32]]).sum())
    assert (torn.figures["rows"] if torn else 0) == wanted


def test_classes_without_rows_and_rare_ones_are_named(digits):
    label = digits.y[digits.val]
    found = diagnose.survey(replace(digits, val=digits.val[label != 3]))
    assert one(found, "classes").text == "no validation row of 3: nothing that is chosen by validation is chosen for it"
    label = digits.y[digits.train]
    rare = torch.cat([digits.train[label != 7], digits.train[label == 7][:5]])
    found = diagnose.survey(replace(digits, train=rare))
    most = int(torch.bincount(digits.y[rare]).max())
    assert one(found, "balance").figures["times"] == pytest.approx(most / 5)
    found = diagnose.survey(replace(digits, train=digits.train[label != 7]))
    assert one(found, "classes").text == "no training row of 7"
