"""A class for each pixel: from masks on the disk to masks on the disk."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from task_samples import SHAPES, SIDE, sample, scenes
from torch import nn
from torchmetrics.functional.classification import multiclass_jaccard_index

import limbeck
from limbeck import evaluate, recipe
from limbeck.core.errors import UserError
from limbeck.core.pictures import colours, write_mask
from limbeck.core.types import Batch, Output, Task
from limbeck.data import fetcher, from_arrays, load, targets
from limbeck.data.augment import augment, keyed
from limbeck.data.augment.images import moved
from limbeck.distill import cache
from limbeck.distill.objective import Objective, Term
from limbeck.distill.objective.feature_matching import fit_terms
from limbeck.distill.objective.network_stages import anatomy
from limbeck.distill.teachers import Frozen
from limbeck.distill.teachers.external import estimators
from limbeck.distill.train import fit
from limbeck.losses import bind
from limbeck.models import NETWORKS, Normalized, as_logits, build
from limbeck.recipe import Augment, Network, Plan
from limbeck.tasks import rules
from limbeck.tasks.normal_form import classes_first, classes_last

ZONES = Task("segmentation", SHAPES)


def drawn(rows=6, side=8, seed=0):
    """Logits [N, H, W, C] and masks [N, H, W], some pixels without a label."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, (rows, side, side))
    truth[random.random(truth.shape) < 0.1] = -100
    return torch.from_numpy(random.normal(size=(rows, side, side, 3))), torch.from_numpy(truth)


def tiny(channels=(4, 8), seed=0):
    torch.manual_seed(seed)
    return NETWORKS["unet"]((1, SIDE, SIDE), 3, channels=list(channels))


# --- metrics -------------------------------------------------------------------------------------


def test_overlaps_are_counted_pixel_by_pixel():
    logits, truth = drawn()
    found = evaluate.metrics(ZONES, logits, truth)
    said = logits.numpy().argmax(-1)
    labels, counted = truth.numpy(), truth.numpy() != -100
    by_hand = []
    for n in range(3):
        true, guessed = (labels == n) & counted, (said == n) & counted
        by_hand.append((true & guessed).sum() / (true | guessed).sum())
    assert found["miou"] == pytest.approx(np.mean(by_hand))
    assert list(found["per_class_iou"].values()) == pytest.approx(by_hand)
    assert found["pixel_accuracy"] == pytest.approx((said == labels)[counted].mean())
    logs = logits.numpy() - np.log(np.exp(logits.numpy()).sum(-1, keepdims=True))
    assert found["nll"] == pytest.approx(np.mean([-logs[(*i, labels[tuple(i)])] for i in np.argwhere(counted)]))
    assert (found["n"], np.sum(found["confusion"])) == (6, counted.sum())
    other = multiclass_jaccard_index(classes_first(logits).float(), truth, num_classes=3, ignore_index=-100)
    assert found["miou"] == pytest.approx(float(other), abs=1e-6)


def test_a_class_that_occurs_nowhere_is_no_part_of_the_mean():
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    truth[:, :2] = 1
    logits = torch.zeros(2, 4, 4, 3)
    logits[..., 0], logits[:, :2, :, 1] = 1, 2
    found = evaluate.metrics(ZONES, logits, truth)
    assert (found["miou"], found["per_class_iou"]) == (1.0, {"background": 1.0, "bright": 1.0, "dark": None})


def test_many_images_are_measured_in_parts_with_the_same_result(monkeypatch):
    logits, truth = drawn(rows=9)
    whole = evaluate.metrics(ZONES, logits, truth)
    monkeypatch.setattr("limbeck.tasks.segmentation.AT_ONCE", 100)
    parts = evaluate.metrics(ZONES, logits, truth)
    assert parts.pop("nll") == pytest.approx(whole.pop("nll"))
    assert parts == whole


def test_predictions_of_another_size_are_refused():
    logits, truth = drawn()
    with pytest.raises(UserError, match="do not fit masks"):
        evaluate.metrics(ZONES, logits[:, ::2, ::2], truth)
    with pytest.raises(UserError, match="no pixel has a label"):
        evaluate.metrics(ZONES, logits, torch.full_like(truth, -100))


def test_images_are_drawn_whole_where_two_models_are_compared():
    """Pixels of one image go together: a model that is worse on one image only is not surely worse."""
    logits, truth = drawn(rows=20)
    sure = 20.0 * nn.functional.one_hot(truth.clamp_min(0), 3).double()
    one_off = sure.clone()
    one_off[0] = logits[0]
    found = evaluate.loss(ZONES, sure, one_off, truth)
    assert found.drop > 0
    assert found.p_more > 0.3  # a drawing without that image, of which there are (1 - 1/20)^20 = 36 %, shows no loss


def test_agreement_leaves_out_what_has_no_label():
    logits, truth = drawn()
    other = logits.clone()
    other[truth == -100] = other[truth == -100].flip(-1)
    found = evaluate.agreement(ZONES, other, logits, target=truth)
    assert found == {"agreement": 1.0, "kl": pytest.approx(0.0, abs=1e-9)}
    assert evaluate.agreement(ZONES, other, logits)["agreement"] < 1


# --- data ----------------------------------------------------------------------------------------


def write_pairs(folder, x, y, *, ignored=255, names=None):
    """Images and palette masks in the layout of `source: masks`."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for n, (image, mask) in enumerate(zip(x, y, strict=True)):
        Image.fromarray(image[0]).save(folder / "images" / f"{n:03}.png")
        made = Image.fromarray(np.where(mask == -100, ignored, mask).astype(np.uint8))
        (made.convert("P") if n % 2 else made).save(folder / "masks" / f"{n:03}.png")
    if names:
        (folder / "classes.txt").write_text("\n".join(names))


def of(path, **more):
    return recipe.Data(source="masks", path=str(path), size=SIDE, channels=1, **more)


def test_images_and_masks_of_a_folder_are_read(tmp_path):
    x, y = scenes(30)
    write_pairs(tmp_path / "a", x, y, names=SHAPES)
    data = load(of(tmp_path / "a"), "segmentation")
    assert data.task == ZONES
    assert (data.x.dtype, data.y.dtype, data.places) == (torch.uint8, torch.int16, (SIDE, SIDE))
    assert np.array_equal(data.x.numpy(), x)
    assert np.array_equal(data.y.numpy(), y)
    assert targets(data, data.train).dtype == torch.int64
    assert any("255 in masks" in note for note in data.notes)
    assert data.keys.own[0] == "images/000.png"
    same = load(of(tmp_path / "a", ignore=255), "segmentation")
    assert same.fingerprint == data.fingerprint
    assert not any("255" in note for note in same.notes)


def test_published_parts_are_kept(tmp_path):
    x, y = scenes(30)
    for part, rows in (("train", slice(0, 18)), ("val", slice(18, 24)), ("test", slice(24, 30))):
        write_pairs(tmp_path / part, x[rows], y[rows])
    data = load(of(tmp_path, classes=list(SHAPES)), "segmentation")
    assert data.counts() == {"train": 18, "val": 6, "test": 6}
    assert sorted(data.keys.own[data.test.numpy()]) == [f"test/images/{n:03}.png" for n in range(6)]


def test_masks_take_the_class_of_the_nearest_pixel(tmp_path):
    x, y = scenes(12, side=32)
    write_pairs(tmp_path / "a", x, y)
    data = load(of(tmp_path / "a", classes=3), "segmentation")
    assert np.array_equal(data.y.numpy(), y[:, 1::2, 1::2])  # the middle of four is rounded down
    assert set(np.unique(data.y.numpy())) <= {-100, 0, 1, 2}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: (a / "masks" / "003.png").unlink(), r"1 images have no mask: 003\.png"),
        (lambda a: Image.new("L", (8, 8)).save(a / "masks" / "003.png"), "is 8 x 8 pixels, and its image 16 x 16"),
        (lambda a: Image.new("RGB", (16, 16)).save(a / "masks" / "003.png"), r"is a picture \(RGB\), not a mask"),
        (lambda a: Image.new("L", (16, 16), 7).save(a / "masks" / "003.png"), r"holds 7, and classes are 0 to 2"),
        (lambda a: (a / "images").rename(a / "pictures"), "no folders images and masks"),
    ],
)
def test_what_does_not_fit_is_told_with_its_file(tmp_path, spoil, said):
    x, y = scenes(12)
    write_pairs(tmp_path / "a", x, y)
    spoil(tmp_path / "a")
    with pytest.raises(UserError, match=said):
        load(of(tmp_path / "a", classes=3), "segmentation")


def test_a_mask_that_cannot_be_read_is_skipped_or_refused(tmp_path):
    x, y = scenes(20)
    write_pairs(tmp_path / "a", x, y)
    (tmp_path / "a" / "masks" / "003.png").write_bytes(b"not a picture")
    data = load(of(tmp_path / "a", classes=3), "segmentation")
    assert len(data.x) == 19
    assert any("skipped 1 files" in note and "003.png" in note for note in data.notes)
    with pytest.raises(UserError, match="1 files cannot be read"):
        load(of(tmp_path / "a", classes=3, strict=True), "segmentation")


def test_arrays_become_masks_by_their_shape():
    x, y = scenes(20)
    data = from_arrays(x, y)
    assert (data.task.kind, data.task.names) == ("segmentation", ("0", "1", "2"))
    bytes_ = from_arrays(x, np.where(y == -100, 255, y).astype(np.uint8))
    assert torch.equal(bytes_.y, data.y)
    with pytest.raises(UserError, match="masks are"):
        from_arrays(x, y[:, :8])
    with pytest.raises(UserError, match="not whole numbers"):
        from_arrays(x, y.astype(np.float32), kind="segmentation")
    with pytest.raises(UserError, match="masks hold numbers from -103"):
        from_arrays(x, y - 3, kind="segmentation")


def test_class_weights_are_of_pixels():
    data = sample("segmentation")
    found = limbeck.data.class_weights(data, "balanced")
    labels = data.y[data.train].numpy()
    counts = [(labels == n).sum() for n in range(3)]
    assert found == pytest.approx([sum(counts) / (3 * count) for count in counts])


# --- augmentation --------------------------------------------------------------------------------

SPEC = Augment(flip=0.5, shift=3, rotate=0)


def reflected(places, side):
    """Indices continued beyond both ends by reflection, as NumPy's "symmetric" padding does it."""
    around = places % (2 * side)
    return np.where(around < side, around, 2 * side - 1 - around)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 50))
def test_a_mask_moves_with_its_image(seed, view):
    _, y = scenes(8, seed % 1000)
    mask = torch.from_numpy(np.where(y == -100, 1, y))
    index = torch.arange(8)
    image = (mask.float() / 4)[:, None]
    assert torch.equal(augment(image, seed, index, view, SPEC)[:, 0], moved(mask, seed, index, view, SPEC).float() / 4)


def test_a_turned_mask_has_the_class_of_the_nearest_pixel():
    _, y = scenes(4)
    mask, index, spec = torch.from_numpy(y), torch.arange(4), Augment(rotate=30)
    found = moved(mask, 3, index, 1, spec).numpy()
    # How far each turned is read off an image of coordinates, moved bilinearly.
    along, across = np.mgrid[:SIDE, :SIDE] / SIDE
    coordinates = torch.tensor(np.stack([along, across]), dtype=torch.float32).expand(4, 2, -1, -1)
    where = augment(coordinates, 3, index, 1, spec)
    inside = slice(6, 10)  # where nothing was reflected
    rows, columns = (SIDE * where.numpy()).transpose(1, 0, 2, 3)
    near = np.abs(rows - np.round(rows)) < 0.4, np.abs(columns - np.round(columns)) < 0.4
    for n in range(4):
        expected = y[n][np.round(rows[n]).astype(int).clip(0, 15), np.round(columns[n]).astype(int).clip(0, 15)]
        clear = (near[0] & near[1])[n][inside, inside]
        assert np.array_equal(found[n][inside, inside][clear], expected[inside, inside][clear])
    assert set(np.unique(found)) <= {-100, 0, 1, 2}


def test_views_of_a_training_carry_their_masks():
    data = sample("segmentation")
    fetch = keyed(
        Augment(flip=1.0),
        seed=0,
        rows=data.train,
        pixels=lambda rows: data.x[rows].float() / 255,
        labels=lambda rows: targets(data, rows),
        classes=3,
    )
    batch = fetch(data.train[:5], 2)
    assert torch.equal(batch.y, targets(data, data.train[:5]).flip(-1))
    assert torch.equal(batch.x, (data.x[data.train[:5]].float() / 255).flip(-1))
    with pytest.raises(UserError, match="a pixel has one"):
        moved(batch.y, 0, batch.index, 0, Augment(mixup=0.2))


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("unet", {"channels": [4, 8, 12]}, 32),
        ("unet", {"channels": [4, 8], "separable": True}, 16),
        ("timm-unet", {"encoder": "resnet10t", "decoder": [16, 8, 8, 8]}, 64),
        ("timm-unet", {"encoder": "mobilenetv3_small_050", "decoder": [8, 8]}, 64),
    ],
)
def test_logits_are_as_large_as_the_image(name, options, side):
    network = build(Network(model=name, options=options), (3, side, side), 5, places=(side, side))
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 5, side, side)


def test_a_network_that_fits_neither_image_nor_task_is_refused():
    with pytest.raises(UserError, match="cannot be made 4 times smaller"):
        build(Network(model="unet"), (3, 30, 30), 5, places=(30, 30))
    with pytest.raises(UserError, match="say `task: segmentation`"):
        build(Network(model="unet"), (3, 32, 32), 5)
    with pytest.raises(UserError, match="each pixel has its own logits"):
        build(Network(model="conv-pool", options={"channels": [4]}), (3, 32, 32), 5, places=(32, 32))


def test_stages_are_found_on_the_way_down_and_up():
    network = NETWORKS["unet"]((1, 32, 32), 3, channels=[4, 8, 16])
    found = anatomy(network, torch.zeros(2, 1, 32, 32))
    assert [stage.shape for stage in found.stages] == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (8, 16, 16), (4, 32, 32)]


def test_a_softmax_over_the_classes_is_taken_off():
    network = nn.Sequential(tiny(), nn.Softmax(1))
    x = torch.rand(4, 1, SIDE, SIDE)
    with torch.no_grad():
        logits = as_logits(network, x, "segmentation").eval()(x)
        assert torch.allclose(logits.softmax(1), network.eval()(x), atol=1e-6)
    teacher = Frozen(network, kind="segmentation")
    index = torch.arange(4)
    assert torch.allclose(teacher(Batch(x, index, index)).prediction.exp().sum(-1), torch.ones(4, SIDE, SIDE))


# --- learning ------------------------------------------------------------------------------------


def test_the_teacher_is_learned_from_pixel_by_pixel():
    student, truth = drawn()
    teacher, _ = drawn(seed=1)
    found = bind("kd", temperature=2.0)(student, teacher, truth).item()
    total, count = 0.0, 0
    for i in np.argwhere(truth.numpy() != -100):
        p, q = (np.exp(values[tuple(i)].numpy() / 2) for values in (teacher, student))
        p, q = p / p.sum(), q / q.sum()
        total, count = total + 4 * float((p * np.log(p / q)).sum()), count + 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_a_loss_of_features_takes_logits_as_the_maps_that_they_are():
    """Shu et al. 2021, equation 4, on the map of logits: for each class a distribution over the pixels."""
    student, teacher = tiny(), tiny(seed=1)
    x = torch.rand(3, 1, SIDE, SIDE)
    terms = {"cwd": recipe.Term(loss="cwd", student="prediction", teacher="prediction", temperature=4.0, weight=1.0)}
    matching = fit_terms(terms, student, teacher, x, rows=3, classes=3)
    objective = matching.objective(Plan(epochs=1), 0)
    with torch.no_grad():
        ours, theirs = 40 * student.eval()(x), 40 * teacher.eval()(x)
    y = torch.zeros(3, SIDE, SIDE, dtype=torch.int64)
    found = objective(Output(classes_last(ours)), Output(classes_last(theirs)), Batch(x, y, torch.arange(3)))
    total = 0.0
    for row in range(3):
        for channel in range(3):
            p, q = (np.exp(m[row, channel].double().numpy().ravel() / 4) for m in (theirs, ours))
            p, q = p / p.sum(), q / q.sum()
            total += 16 * float((p * np.log(p / q)).sum())
    assert found["cwd"].item() == pytest.approx(total / 9, rel=1e-4)


def test_an_image_without_any_label_does_not_count_in_losses_of_features():
    maps = torch.rand(3, 4, 8, 8), torch.rand(3, 4, 8, 8)
    y = torch.zeros(3, 8, 8, dtype=torch.int64)
    y[1] = -100
    y[2, :4] = -100
    two = [part[[0, 2]] for part in maps]
    assert bind("at")(*maps, y).item() == pytest.approx(bind("at")(*two, y[[0, 2]]).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dense_outputs_are_stored_whole_or_the_largest_of_each_pixel(tmp_path, dtype):
    data = sample("segmentation", 30)
    teacher = Frozen(tiny(), kind="segmentation")
    about = {"identity": {"teacher": "t"}, "label": {"teacher": "t"}, "views": 1, "kind": "segmentation"}
    stored = cache.outputs(teacher, fetcher(data), data.train, dtype=dtype, root=tmp_path / "a", **about)
    batch = fetcher(data)(data.train[[3, 0, 7]], 0)
    exact = teacher(batch).prediction
    assert torch.allclose(stored(batch).prediction, exact, atol=0 if dtype == "float32" else 1e-2)
    each = {"float32": 4, "float16": 2}[dtype]
    rows = len(data.train)
    assert cache.size_bytes(rows, 1, (SIDE, SIDE, 3), dtype=dtype) == rows * SIDE * SIDE * 3 * each
    two = cache.outputs(teacher, fetcher(data), data.train, dtype=dtype, top_k=2, root=tmp_path / "b", **about)
    shares, true = two(batch).prediction.softmax(-1), exact.softmax(-1)
    assert torch.allclose(shares, true, atol=1e-5 if dtype == "float32" else 2e-3)  # of three classes one is left


def test_a_unet_learns_and_the_loss_falls():
    data = sample("segmentation", 80)
    network = Normalized(tiny((8, 16)), data.inputs.mean, data.inputs.std)
    objective = Objective([Term("hard", bind("hard"), 1.0)], epochs=8)
    plan = Plan(epochs=8, batch_size=8, optimizer="adam", lr=1e-2)
    history = fit(network, objective, None, data, plan, seed=0)
    guess = rules("segmentation").guess(data.task, targets(data, data.test)).value
    assert evaluate.assess(network, data)["miou"] > guess + 0.2
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]
    assert all(math.isfinite(epoch["val_miou"]) for epoch in history.epochs)


# --- out again -----------------------------------------------------------------------------------


def test_a_mask_is_written_in_the_size_of_its_image_and_never_over_another(tmp_path):
    mask = np.arange(16).reshape(4, 4) % 3
    path = write_mask(tmp_path / "deep" / "mask.png", mask, 3, (8, 12))
    with Image.open(path) as found:
        assert (found.mode, found.size) == ("P", (8, 12))
        assert np.array_equal(np.asarray(found), mask.repeat(3, 0).repeat(2, 1))
        assert found.getpalette()[:3] == [0, 0, 0]
    with pytest.raises(UserError, match="is there already"):
        write_mask(path, mask, 3, (8, 12))
    with pytest.raises(UserError, match="300 classes"):
        write_mask(tmp_path / "other.png", mask, 300, (8, 12))


@given(st.integers(2, 256))
def test_no_two_classes_have_one_colour(count):
    assert len(set(colours(count))) == count


def test_what_a_recipe_cannot_ask_of_pixels_is_refused(tmp_path):
    path = tmp_path / "zones.yaml"
    path.write_text(
        "name: zones\nabout: Zones.\ntask: segmentation\ndata: {source: masks, path: zones}\n"
        "student: {model: unet, train: {epochs: 1}}\nlosses: {hard: 1}\n"
    )
    assert recipe.load(path).task == "segmentation"
    for changes, said in (
        (["data.source=digits", "data.path=null"], "'digits' is for `task: classification`"),
        (["augment.mixup=0.2"], "mixup and cutmix mix class labels"),
        (["framework=keras"], "`keras` is about reference networks, and there is none"),
        (["losses.label_mse=1"], "compares measured values"),
        (["losses.mlld=1"], "of pixels there are too many"),
        (["data.target=x"], "`target` has no effect"),
    ):
        with pytest.raises(UserError, match=said):
            recipe.load(path, changes)


def test_masks_have_no_stacking_and_no_estimators():
    assert "stacked" not in rules("segmentation").ensembles
    data = SimpleNamespace(places=(4, 4), task=ZONES)
    with pytest.raises(UserError, match="does not fit `task: segmentation`"):
        estimators._estimator(SimpleNamespace(model="sklearn/LogisticRegression", options={}, seed=0), data)
    assert json.dumps(rules("segmentation").said(SHAPES, np.zeros((2, 2, 3)), 1))
