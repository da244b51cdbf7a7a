"""Rows without a label: learned from by a teacher's outputs alone, and by nobody else."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import limbeck
from limbeck import recipe
from limbeck.core.errors import UserError
from limbeck.core.types import UNLABELLED, Batch, Output
from limbeck.data import again, augment, fetcher, from_arrays, inspect, load
from limbeck.data.dataset import Data
from limbeck.distill.objective import Objective, Term
from limbeck.distill.train import fit
from limbeck.losses import bind
from limbeck.recipe import Augment, Plan


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 8, 8), dtype=np.uint8)


def loaded(path, kind="classification", **fields):
    return load(recipe.Data.model_validate({"source": "arrays", "path": str(path), **fields}), kind)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "labelled.npz", x=images(60), y=np.arange(60) % 3)
    np.savez(tmp_path / "more.npz", x=images(25, 1))
    np.save(tmp_path / "more.npy", images(25, 1))
    return tmp_path


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["more.npz", "more.npy"])
def test_they_stand_behind_the_others_and_in_no_split(folder, name):
    plain, data = loaded(folder / "labelled.npz"), loaded(folder / "labelled.npz", unlabelled=str(folder / name))
    assert torch.equal(data.x[data.unlabelled], torch.from_numpy(images(25, 1))[:, None])
    assert (data.y[data.unlabelled] == UNLABELLED).all()
    assert data.counts() == {**plain.counts(), "unlabelled": 25}
    for ours, theirs in ((data.train, plain.train), (data.val, plain.val), (data.test, plain.test)):
        assert torch.equal(ours, theirs)
    assert torch.equal(data.inputs.mean, plain.inputs.mean)  # measured on labelled training rows
    assert data.fingerprint != plain.fingerprint
    assert torch.equal(data.taught, torch.cat([data.train, data.unlabelled]))


def test_rows_that_are_tested_on_are_left_out(folder):
    plain = loaded(folder / "labelled.npz")
    held_out = torch.cat([plain.test[:3], plain.val[:2]])
    same = np.concatenate([plain.x[held_out, 0].numpy(), plain.x[plain.train[:4], 0].numpy(), images(5, 1)])
    np.save(folder / "same.npy", same)
    data = loaded(folder / "labelled.npz", unlabelled=str(folder / "same.npy"))
    assert len(data.unlabelled) == 9
    assert torch.equal(data.x[data.unlabelled], torch.from_numpy(same[5:])[:, None])
    assert any("5 of 14 rows without a label are left out" in note for note in data.notes)
    np.save(folder / "same.npy", same[:5])
    with pytest.raises(UserError, match="all rows without a label are rows of the validation or test split"):
        loaded(folder / "labelled.npz", unlabelled=str(folder / "same.npy"))


def test_a_limit_is_of_labelled_rows(folder):
    data = loaded(folder / "labelled.npz", unlabelled=str(folder / "more.npy"), limit=30)
    assert data.counts()["unlabelled"] == 25
    assert sum(data.counts().values()) == 55
    assert torch.equal(data.x[data.unlabelled], torch.from_numpy(images(25, 1))[:, None])


def test_a_table_without_its_target(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=40), "colour": random.choice(["red", "blue"], 40)})
    frame.assign(price=random.normal(size=40)).to_csv(tmp_path / "labelled.csv", index=False)
    more = pd.DataFrame({"colour": ["red", "green"], "size": [1.5, -2.0]})
    more.to_csv(tmp_path / "more.csv", index=False)
    spec = {"source": "table", "target": "price", "unlabelled": str(tmp_path / "more.csv")}
    data = loaded(tmp_path / "labelled.csv", "regression", **spec)
    assert data.columns == ("size", "colour=blue", "colour=red")
    assert data.x[data.unlabelled].tolist() == [[1.5, 0, 1], [-2.0, 0, 0]]
    assert data.y[data.unlabelled].isnan().all()
    assert data.y[data.taught[: len(data.train)]].isfinite().all()
    more[["size"]].to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(UserError, match="has no column 'colour'"):
        loaded(tmp_path / "labelled.csv", "regression", **spec)
    more.assign(size=["small", "large"]).to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(UserError, match="column 'size' holds numbers in the labelled rows only"):
        loaded(tmp_path / "labelled.csv", "regression", **spec)


def test_a_folder_of_images_whatever_its_folders_are_called(tmp_path):
    for part, names in (("labelled", ("cat", "dog")), ("more", ("", "deep"))):
        for number, name in enumerate(names):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(12):
                picture = Image.fromarray(images(1, 100 * number + i + 7 * (part == "more"))[0])
                picture.resize((16, 16)).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "more" / "broken.png").write_bytes(b"no image")
    spec = {"source": "folder", "size": 16, "unlabelled": str(tmp_path / "more")}
    data = loaded(tmp_path / "labelled", **spec)
    alone = loaded(tmp_path / "labelled", source="folder", size=16)
    assert data.task.names == ("cat", "dog")
    assert torch.equal(data.x[: len(alone.x)], alone.x)
    assert len(data.x) == 48
    assert (data.y[24:] == UNLABELLED).all()
    assert 0 < len(data.unlabelled) <= 24
    assert any("broken.png" in note for note in data.notes)
    told = inspect(tmp_path / "more" / "deep")
    assert (told["kind"], told["images"], told["classes"]) == ("images without labels", 12, {})
    with pytest.raises(UserError, match="every folder is a class"):
        loaded(tmp_path / "labelled", **spec | {"unlabelled": str(tmp_path / "labelled" / "cat")})


def test_samples_of_another_kind_are_refused(folder):
    np.save(folder / "wide.npy", np.zeros((5, 8, 9), dtype=np.uint8))
    for name, said in (("wide.npy", "samples have the shape"), ("none.npy", "there is no such file")):
        with pytest.raises(UserError, match=said):
            loaded(folder / "labelled.npz", unlabelled=str(folder / name))


# --- learning ------------------------------------------------------------------------------------


def pair(kind="classification", rows=90, more=30):
    """A data set with rows behind it that have no label."""
    torch.manual_seed(0)
    x = torch.randn(rows + more, 5)
    y = {
        "classification": x[:rows, :3].argmax(1),
        "multilabel": (x[:rows, :3] > 0.3).long(),
        "regression": x[:rows, :3] * 2 + 1,
    }[kind]
    found = from_arrays(x[:rows], y, kind=kind)
    nobody = found.y.new_full((more, *found.y.shape[1:]), UNLABELLED if kind == "classification" else torch.nan)
    known = {name: getattr(found, name) for name in Data.__dataclass_fields__}
    known |= {"x": x, "y": torch.cat([found.y, nobody]), "unlabelled": torch.arange(rows, rows + more)}
    return Data(**known)


LABEL = {"classification": "hard", "multilabel": "label_binary", "regression": "label_mse"}
SOFT = {"classification": "kd", "multilabel": "binary_kd", "regression": "mse"}


@pytest.mark.parametrize("kind", LABEL)
def test_label_terms_see_labelled_rows_and_teacher_terms_all(kind):
    data = pair(kind)
    label, soft = bind(LABEL[kind]), bind(SOFT[kind])
    objective = Objective([Term("label", label, 0.3), Term("soft", soft, 0.7)])
    share = len(data.train) / len(data.taught)
    torch.manual_seed(1)
    student, teacher = torch.randn(2, len(data.taught), 3)
    batch = fetcher(data)(data.taught, 0)
    whole = objective(Output(student), Output(teacher), batch, labelled_share=share)
    count = len(data.train)
    assert whole["label"].item() == pytest.approx(label(student[:count], None, batch.y[:count]).item(), rel=1e-5)
    every = torch.zeros(len(student), dtype=torch.long) if kind == "classification" else torch.zeros(len(student), 3)
    assert whole["soft"].item() == pytest.approx(soft(student, teacher, every).item(), rel=1e-5)
    # Parts of the rows, with however many labels, add up to the same.
    order = torch.randperm(len(student))
    parts = []
    for rows in order.split(10):
        part = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
        values = objective(Output(student[rows]), Output(teacher[rows]), part, labelled_share=share)
        parts.append([len(rows) * values[name].item() for name in ("label", "soft", "total")])
    mean = np.sum(parts, axis=0) / len(student)
    assert mean == pytest.approx([whole[name].item() for name in ("label", "soft", "total")], rel=1e-5)


def watched(data, objective, teacher=None, **options):
    """The rows and views of every batch of a training."""
    seen = []
    plain = fetcher(data)

    def fetch(rows, view):
        seen.append((rows, view))
        return plain(rows, view)

    torch.manual_seed(0)
    fit(nn.Linear(5, data.task.outputs), objective, teacher, data, Plan(batch_size=16, **options), fetch=fetch)
    return seen


def test_who_learns_from_labels_alone_takes_as_many_steps_and_never_sees_them():
    data = pair()
    alone = watched(data, Objective([Term("hard", bind("hard"), 1.0)]), epochs=2)
    both = Objective([Term("hard", bind("hard"), 0.5), Term("kd", bind("kd"), 0.5)])
    taught = watched(data, both, lambda batch: Output(torch.zeros(len(batch.index), 3)), epochs=2)
    assert len(alone) == len(taught)
    assert [len(rows) for rows, _ in alone] == [len(rows) for rows, _ in taught]
    first = torch.cat([rows for rows, _ in taught[: len(taught) // 2]])
    assert sorted(first.tolist()) == sorted(data.taught.tolist())
    own = torch.cat([rows for rows, _ in alone[: len(alone) // 2]])
    count = len(data.train)
    assert set(own.tolist()) == set(data.train.tolist())
    assert sorted(own[:count].tolist()) == sorted(data.train.tolist())  # all of them before any a second time
    assert len(set(own[count:].tolist())) == len(own) - count
    # A row that comes again is seen in another view, and no view of an epoch is that of the one before.
    views = [view for _, view in alone]
    assert views == sorted(views)
    assert set(views[: len(views) // 2]).isdisjoint(views[len(views) // 2 :])
    assert {view for _, view in taught} == {0, 1}


def test_going_through_rows_again_is_seeded_and_never_the_same_order_twice():
    data = pair(rows=40, more=100)
    rows, count = again(data, 7), len(data.train)
    assert torch.equal(rows, again(data, 7))
    assert len(rows) == len(data.taught)
    laps = rows[: len(rows) // count * count].view(-1, count)
    assert all(sorted(lap.tolist()) == sorted(data.train.tolist()) for lap in laps)
    assert len({tuple(lap.tolist()) for lap in laps}) == len(laps)


def test_mixed_rows_have_partners_of_their_own_kind():
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    y[40:] = UNLABELLED
    fetch = augment.keyed(
        Augment(mixup=0.4), seed=0, rows=torch.arange(40), unlabelled=torch.arange(40, 60),
        pixels=lambda rows: x[rows].clone(), labels=lambda rows: y[rows], classes=3,
    )  # fmt: skip
    mixed = fetch(torch.arange(60), 0).y
    assert mixed[:40].sum(1).allclose(torch.ones(40))
    assert mixed[40:].isnan().all()
    before = augment.keyed(
        Augment(mixup=0.4), seed=0, rows=torch.arange(40),
        pixels=lambda rows: x[rows].clone(), labels=lambda rows: y[rows], classes=3,
    )  # fmt: skip
    assert torch.equal(mixed[:40], before(torch.arange(40), 0).y)


def test_labels_mixed_are_shares_of_yes():
    x, y = torch.rand(30, 1, 8, 8), (torch.rand(30, 3) < 0.4).float()
    fetch = augment.keyed(
        Augment(cutmix=1.0), seed=0, rows=torch.arange(30), pixels=lambda rows: x[rows].clone(),
        labels=lambda rows: y[rows], classes=3,
    )  # fmt: skip
    mixed = fetch(torch.arange(30), 0).y
    assert ((mixed >= 0) & (mixed <= 1)).all()
    assert ((mixed > 0) & (mixed < 1)).any()
    sure = (y == 1) & (mixed == 1)
    assert sure.any()


# --- recipes -------------------------------------------------------------------------------------

JOB = """\
data: {source: arrays, path: labelled.npz, unlabelled: more.npy, flat: true}
teachers:
  - model: mlp
    options: {hidden: [16]}
    train: {epochs: 2}
student:
  model: mlp
  options: {hidden: [4]}
  train: {epochs: 2}
losses:
  hard: 0.5
  kd: 0.5
"""


@pytest.mark.parametrize("loss", ["dkd", "nkd", "wsld", "crd", "{loss: lskd, wraps: dkd}"])
def test_losses_that_cannot_do_without_labels_are_refused(tmp_path, loss):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert recipe.load(path).data.unlabelled == "more.npy"
    new = f"soft: {loss}" if loss.startswith("{") else f"{loss}: 0.5"
    path.write_text(JOB.replace("kd: 0.5", new))
    with pytest.raises(UserError, match="needs the label of every row it learns from"):
        recipe.load(path)
    path.write_text(JOB.replace("kd: 0.5", new).replace(", unlabelled: more.npy", ""))
    assert recipe.load(path).data.unlabelled is None


def test_without_anybody_to_learn_from_they_are_refused(tmp_path):
    path = tmp_path / "job.yaml"
    text = JOB.replace("  kd: 0.5\n", "")
    path.write_text(text[: text.index("teachers")] + text[text.index("student") :])
    with pytest.raises(UserError, match=r"data\.unlabelled: rows without a label"):
        recipe.load(path)


def test_a_run_asks_the_teacher_for_them_and_says_how_many_there_were(folder):
    raw = {**recipe.parse(JOB, "job"), "name": "more", "seeds": 1, "run": {"threads": 1}}
    raw["data"] |= {"path": str(folder / "labelled.npz"), "unlabelled": str(folder / "more.npy")}
    result = limbeck.run(raw, out=folder / "run")
    counts = result["data"]["counts"]
    assert counts["unlabelled"] == 25
    assert [stored["rows"] for stored in result["cache"]] == [counts["train"] + 25]
    alone, taught = (result["curves"][f"{name}-seed0"] for name in ("student", "distilled"))
    assert alone[0]["train_loss"] == pytest.approx(alone[0]["train_hard"])
    assert taught[0]["train_loss"] == pytest.approx(0.5 * taught[0]["train_hard"] + 0.5 * taught[0]["train_kd"])
    page = (folder / "run" / "report.html").read_text()
    assert "Of 25 more rows no label is known" in page
    assert "with the same number of steps" in page
    assert "same order of the data" not in page
