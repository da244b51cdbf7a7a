"""The recipe: what it accepts, and how it says no."""

import pytest

from limbeck import recipe
from limbeck.core.errors import UserError

GOOD = """\
data: {source: digits}
teachers:
  - model: mlp
    train: {epochs: 1}
student:
  model: mlp
  train:
    epochs: 2
losses:
  hard: 0.1
  kd: {weight: 0.9, temperature: 4}
"""


def write(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def refused(tmp_path, text, *overrides):
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, text), overrides)
    return str(caught.value)


def test_a_recipe_is_read_with_its_defaults(tmp_path):
    found = recipe.load(write(tmp_path, GOOD))
    assert found.losses["kd"].options == {"temperature": 4}
    assert found.losses["hard"].weight == 0.1
    assert found.seeds == [0, 1, 2]
    assert found.teachers[0].name == "teacher"


def test_dump_and_load_are_inverse(tmp_path):
    found = recipe.load(write(tmp_path, GOOD))
    again = recipe.load(write(tmp_path, recipe.dump(found)))
    assert again.model_dump() == found.model_dump()


@pytest.mark.parametrize("name", recipe.bundled())
def test_every_bundled_recipe_is_sound(name):
    assert recipe.load(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epochs: 2", "epohcs: 2", "job.yaml:8: student.train.epohcs: unknown key; did you mean 'epochs'?"),
        ("epochs: 2", "epochs: two", "job.yaml:8: student.train.epochs: input should be a valid integer, not 'two'"),
        ("epochs: 2", "epochs: -1", "greater than or equal to 0"),
        ("epochs: 2", "lr: -1", "student.train.lr"),
        ("source: digits", "source: digit", "did you mean 'digits'?"),
        ("temperature: 4", "temprature: 4", "did you mean 'temperature'?"),
        ("temperature: 4", "temperature: hot", "option 'temperature' is a float"),
        ("  kd:", "  kdd:", "unknown loss 'kdd'; did you mean 'kd'"),
        ("student:\n  model: mlp", "student:\n  model: mpl", "unknown model 'mpl'; did you mean 'mlp'"),
        ("  hard: 0.1", "  hard: -0.1", "is a number from 0 on, `auto`, or {start: ..., end: ...}, not -0.1"),
        ("    train: {epochs: 1}", "    name: big", "job.yaml:3: teachers.0: give `train` to train it here"),
        ("  kd: {weight: 0.9, temperature: 4}", "", "no loss with a weight above 0 learns from it"),
        ("teachers:\n  - model: mlp\n    train: {epochs: 1}\n", "", "`teachers` is empty"),
        ("losses:", "augment: {mixup: 0.2, cutmix: 1.0}\nlosses:", "choose one"),
        ("epochs: 2", "momentum: 0.9", "`momentum` has no effect with optimizer 'adam'"),
        ("epochs: 2", "schedule: {name: constant, t_max: 3}", "`t_max` has no effect with the constant schedule"),
        ("epochs: 2", "warmup_epochs: 10\n    epochs: 2", "`warmup_epochs` must be less than `epochs`"),
        ("source: digits", "source: digits, path: here", "is embedded and takes no `path`"),
        ("source: digits", "source: folder", "source 'folder' needs `path`"),
        ("source: digits", "source: digits, classes: 3", "`classes` has no effect"),
        ("losses:", "task: regression\nlosses:", "is for `task: classification`, not for regression"),
        ("  hard: 0.1", "  gaussian_kl: 1", "gaussian_kl: compares measured values: it does not fit"),
        ("  hard: 0.1", "  binary_kd: 1", "binary_kd: takes rows of several labels, each a yes or no"),
        ("losses:", "seeds: [1, 1]\nlosses:", "different ones"),
        ("losses:", "name: ../out\nlosses:", "name: the name becomes a folder"),
        ("losses:", "name: ''\nlosses:", "name: the name becomes a folder"),
        ("model: mlp", "name: student-seed0\n    model: mlp", "job.yaml:3: teachers.0.name: 'student-seed0' would be"),
        ("model: mlp", "name: export\n    model: mlp", "is the name of something of Limbeck's own"),
        ("epochs: 2", "lr: .inf", "student.train.lr: input should be a finite number, not inf"),
        ("epochs: 2", "lr: 0", "student.train.lr: input should be greater than 0, not 0"),
        ("temperature: 4", "temperature: .nan", "option 'temperature' is a float, not nan"),
        ("{source: digits}", "digits", "data: input should be a mapping, not 'digits'"),
        ("losses:", "run: {threads: 100000}\nlosses:", "less than or equal to 1024"),
        ("source: digits", "source: digits, source: mnist", "'source' is given twice"),
        ("data:", "data: [", "not readable as YAML"),
        ("losses:", "combine: average\nlosses:", "combine: has no effect with 1 teacher"),
        ("losses:", "combine: avarage\nlosses:", "did you mean 'average'"),
        ("losses:", "combine: weighted\nlosses:", "'weighted' needs `weights`"),
        ("losses:", "combine: {name: vote, hidden: [3]}\nlosses:", "`hidden` has no effect with 'vote'"),
        ("losses:", "combine: {name: stacked, joint: true}\nlosses:", "belong together"),
        ("losses:", "views: 3\nlosses:", "job.yaml:9: views: has no effect without `augment`"),
        ("losses:", "cache: {pixels: true}\nlosses:", "cache.pixels: has no effect without `augment`"),
        ("losses:", "cache: {dtype: int8}\nlosses:", "cache.dtype"),
        ("losses:", "cache: {limit_gb: 0}\nlosses:", "cache.limit_gb"),
        ("losses:", "assistants: [{model: mlp, name: teacher}]\nlosses:", "assistants.0.name: 'teacher' would be"),
        ("epochs: 2", "epochs: 2\n  peers: 2", "student.peers: learn from each other"),
        ("epochs: 2", "epochs: 2\n  peers: 1", "greater than or equal to 2"),
        ("epochs: 2", "epochs: 2\n  generations: 0", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_faults_are_told_in_one_line_with_their_place(tmp_path, old, new, expected):
    assert old in GOOD
    message = refused(tmp_path, GOOD.replace(old, new, 1))
    assert expected in message
    assert "job.yaml" in message


SMALL = {"small": [{"prune": 0.5}]}


@pytest.mark.parametrize(
    ("changes", "place", "other"),
    [
        ({"compare": {"budget": {"hard": 1}}, "budget": {"size_kb": 9}}, "budget", "compare.budget"),
        ({"compare": {"small-alone": {"hard": 1}}, "compress": SMALL}, "compress.small", "compare.small-alone"),
        ({"teachers": [{"name": "budget"}], "budget": {"size_kb": 9}}, "budget", "teachers.0.name"),
        ({"teachers": [{"name": "small-seed0"}], "compress": SMALL}, "compress.small", "teachers.0.name"),
        ({"teachers": [{"name": "Big"}, {"name": "big"}]}, "teachers.1.name", "teachers.0.name"),
        ({"compare": {"big": {"hard": 1}}, "teachers": [{"name": "big"}]}, "compare.big", "teachers.0.name"),
        ({"compare": {"student": {"hard": 1}}}, "compare.student", ""),
        ({"teachers": [{"name": "distilled-seed1"}]}, "teachers.0.name", ""),
    ],
)  # fmt: skip
def test_no_two_stages_have_the_same_name(changes, place, other):
    """Else one would delete what the other has trained."""
    teachers = [{"model": "mlp", "train": {}, **teacher} for teacher in changes.get("teachers", [{}])]
    found = {"data": {"source": "digits"}, "losses": {"hard": 1, "kd": 1}, "seeds": 2, **changes, "teachers": teachers}
    found["student"] = {"model": "mlp", **changes.get("student", {})}
    with pytest.raises(UserError) as told:
        recipe.load(found)
    what = f"is the name of `{other}`" if other else "something of Limbeck's own"
    assert str(told.value).startswith(f"recipe: {place}: '")
    assert what in str(told.value)


def test_losses_are_held_against_the_task(tmp_path):
    values = (
        GOOD.replace("digits", "diabetes")
        .replace("losses:", "task: regression\nlosses:")
        .replace("hard:", "label_mse:")
    )
    terms = "kd: {weight: 0.9, temperature: 4}"
    assert "ordinal_kd: compares classes" in refused(tmp_path, values.replace(terms, "ordinal_kd: 1"))
    for either in ("rkd_distance", "crd"):
        assert either in recipe.load(write(tmp_path, values.replace(terms, f"{either}: 1"))).losses
        assert either in recipe.load(write(tmp_path, GOOD.replace(terms, f"{either}: 1"))).losses
    assert "ordinal_kd" in recipe.load(write(tmp_path, GOOD.replace(terms, "ordinal_kd: 1"))).losses


def test_every_fault_is_told_at_once(tmp_path):
    message = refused(tmp_path, GOOD.replace("epochs: 2", "epohcs: 2").replace("digits", "digit"))
    assert len(message.splitlines()) == 2


def test_numbers_without_a_point_are_numbers(tmp_path):
    assert recipe.load(write(tmp_path, GOOD), ["student.train.lr=1e-3"]).student.train.lr == 1e-3


def test_overrides_reach_into_lists_and_short_forms(tmp_path):
    found = recipe.load(
        write(tmp_path, GOOD),
        ["teachers.0.train.epochs=7", "losses.hard.weight=0.5", "seeds=[4, 5]", "data.split.val=0.2"],
    )
    assert found.teachers[0].train.epochs == 7
    assert found.losses["hard"].weight == 0.5
    assert found.seeds == [4, 5]
    assert found.data.split.val == 0.2


def test_an_override_does_not_reach_what_an_anchor_shares():
    found = recipe.load("seedlings-coatnet", ["student.train.epochs=3"])
    assert found.student.train.epochs == 3
    assert found.teachers[0].train.epochs == 50


@pytest.mark.parametrize(
    "override", ["nonsense", "=3", "teachers.5.train.epochs=1", "student.train.epohcs=1", "data.source.deep=1", "a={"]
)
def test_bad_overrides_are_refused(tmp_path, override):
    assert refused(tmp_path, GOOD, override)


def test_yaml_cannot_make_objects(tmp_path):
    message = refused(tmp_path, "data: !!python/object/apply:os.system ['true']\n")
    assert "not readable as YAML" in message


def test_an_unknown_recipe_names_its_neighbours():
    with pytest.raises(UserError, match="quickstart"):
        recipe.load("quikstart")


TWO = """
data: {source: digits}
teachers:
  - {name: a, model: mlp, train: {epochs: 1}}
  - {name: b, model: mlp, train: {epochs: 1}}
combine: average
student: {model: mlp}
losses: {hard: 1, kd: 1}
"""


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("mean", "combine: 'mean' does not fit `task: classification`"),
        ("{name: weighted, weights: [1.0]}", "combine.weights: has 1 numbers for 2 teachers"),
        ("{name: weighted, weights: [0, 0]}", "not all of them 0"),
        ("{name: weighted, weights: [1, -1]}", "0 or more"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(tmp_path, combine, expected):
    assert expected in refused(tmp_path, TWO.replace("combine: average", f"combine: {combine}"))


@pytest.mark.parametrize(
    "combine",
    [
        "vote",
        "logits-average",
        "{name: weighted, weights: accuracy}",
        "{name: weighted, weights: confidence}",
        "{name: weighted, weights: [3, 1]}",
        "{name: stacked, hidden: [8]}",
        "{name: stacked, joint: true, train: {epochs: 2}}",
    ],
)
def test_every_way_to_combine_is_accepted(tmp_path, combine):
    found = recipe.load(write(tmp_path, TWO.replace("combine: average", f"combine: {combine}")))
    assert found.combine is not None
    assert found.combine.name in combine


def test_members_of_a_joint_stack_need_no_training_of_their_own(tmp_path):
    alone = TWO.replace(", train: {epochs: 1}", "")
    joint = alone.replace("combine: average", "combine: {name: stacked, joint: true, train: {epochs: 2}}")
    assert [t.train for t in recipe.load(write(tmp_path, joint)).teachers] == [None, None]
    assert "teachers.0: give `train`" in refused(tmp_path, alone)


def test_students_that_teach_themselves_or_each_other_need_no_teacher(tmp_path):
    text = "data: {source: digits}\nstudent: {model: mlp, WHAT: 2}\nlosses: {hard: 1, kd: 1}\n"
    assert recipe.load(write(tmp_path, text.replace("WHAT", "generations"))).student.generations == 2
    assert recipe.load(write(tmp_path, text.replace("WHAT", "peers"))).student.peers == 2
    plain = text.replace("WHAT: 2", "train: {epochs: 1}")
    assert "losses.kd: learns from a teacher, and `teachers` is empty" in refused(tmp_path, plain)


def test_cache_strict_is_a_word():
    found = recipe.load("quickstart", ["cache=strict"])
    assert found.cache.strict
    assert found.cache.dtype == "float16"
