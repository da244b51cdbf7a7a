"""Every loss against its oracle, and the contract that all keep. What each family needs stands in oracles/.

What the papers state and numbers from published code are in test_losses_<family>.py.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn

import limbeck.losses
from limbeck.core import signatures
from limbeck.core.errors import UserError
from limbeck.losses import LOSSES, bind, needs_teacher

Part = Tensor | Sequence[Tensor]  # a side of a batch: one feature, or several

ORACLES, OPTIONS, BEST = (oracles.collected(table) for table in ("ORACLES", "OPTIONS", "BEST"))
EXCEPT, WIDTHS = oracles.collected("EXCEPT"), oracles.collected("WIDTHS")
FAMILIES = {name: importlib.import_module(f"limbeck.losses.{name}") for name in oracles.FAMILIES}
NAMED = {name: family for family in oracles.FAMILIES.values() for name in family.ORACLES}

EVERY = [(name, options) for name in LOSSES for options in [{}, *OPTIONS.get(name, [])]]


def kept(name: str, test: Callable[..., None]) -> bool:
    """Whether no family says that this test does not apply to a loss, and why."""
    return test.__name__ not in EXCEPT.get(name, {})


def every_loss(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("name", [name for name in LOSSES if kept(name, test)])(test)


def every_loss_on_predictions(test: Callable[..., None]) -> Callable[..., None]:
    names = [name for name in LOSSES if kept(name, test) and not signatures.losses()[name].taps]
    return pytest.mark.parametrize("name", names)(test)


def every_case(test: Callable[..., None]) -> Callable[..., None]:
    cases = [(name, options) for name, options in EVERY if kept(name, test)]
    return pytest.mark.parametrize(("name", "options"), cases)(test)


# --- how a loss is made and called ---------------------------------------------------------------


def sample(name: str, **wanted: int) -> list[Any]:
    """Student, teacher and target in float64, and row numbers for a loss that takes them."""
    parts = list(NAMED[name].sample(name, **wanted))
    loss = LOSSES[name]
    takes_index = inspect.isclass(loss) and "index" in inspect.signature(loss.forward).parameters
    return [*parts, 2 * torch.arange(len(parts[2])) + 1] if takes_index else parts


def made(name: str, options: dict[str, Any], *, width: int = 5, seed: int = 0) -> Any:
    """The loss, in float64 and from the same random numbers each time."""
    student, teacher, *_ = sample(name, width=width)
    around = {"student": shapes(student), "teacher": shapes(teacher), "rows": 64}
    around |= NAMED[name].given(name, width) if hasattr(NAMED[name], "given") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = bind(name, **around, **options)
    return loss.double() if isinstance(loss, nn.Module) else loss


def value_of(name: str, options: dict[str, Any], parts: Sequence[Any], *, width: int = 5) -> Tensor:
    """The first value that a new loss gives: one with a memory gives another the next time."""
    loss = made(name, options, width=width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return loss(*parts)


def shapes(part: Part) -> Any:
    """Of one row of each feature."""
    return tuple(part.shape[1:]) if isinstance(part, Tensor) else [shapes(each) for each in part]


def each(part: Part) -> list[Tensor]:
    """The features of one side."""
    return [part] if isinstance(part, Tensor) else list(part)


def with_each(part: Part, change: Callable[[Tensor], Tensor]) -> Any:
    """One side with every feature changed."""
    return change(part) if isinstance(part, Tensor) else [change(one) for one in part]


def rows(parts: Sequence[Any], chosen: Any) -> list[Any]:
    """Some rows of a batch."""
    return [with_each(part, lambda x: x[chosen]) for part in parts]


def learning(parts: Sequence[Any]) -> list[Any]:
    """The batch with a student that collects gradients."""
    return [with_each(parts[0], lambda x: x.detach().clone().requires_grad_()), *parts[1:]]


def gradients(part: Part) -> list[Tensor]:
    """Of each feature; one that the loss does not reach has none, which is 0."""
    return [torch.zeros_like(one) if one.grad is None else one.grad for one in each(part)]


def plain(part: Any) -> Any:
    """As nested lists of numbers."""
    return part.tolist() if isinstance(part, Tensor) else [plain(one) for one in part]


def with_labels() -> list[str]:
    return [name for name in LOSSES if name in NAMED and not sample(name)[2].is_floating_point()]


# --- what there must be of each loss -------------------------------------------------------------


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == set(LOSSES)
    assert set(BEST) == set(LOSSES)
    # One weight a class: test_class_weights.py holds these against PyTorch's, for widths here differ.
    with_options = {name for name, known in signatures.losses().items() if set(known.options) - {"class_weights"}}
    assert set(OPTIONS) == with_options


def test_families_and_their_oracles_go_together() -> None:
    for name, family in FAMILIES.items():
        assert set(family.LOSSES) == set(oracles.FAMILIES[name].ORACLES)
        assert {loss for loss in LOSSES if signatures.losses()[loss].family == name} == set(family.LOSSES)
    assert sum(len(family.LOSSES) for family in FAMILIES.values()) == len(LOSSES)


def test_rows_of_the_tables_are_read_without_importing_them() -> None:
    for family in FAMILIES.values():
        for name, row in family.LOSSES.items():
            read = signatures.losses()[name]
            for fact in ("weight", "taps", "needs_labels", "predicts", "compares_rows", "gaussian"):
                assert getattr(read, fact) == getattr(row, fact), (name, fact)
            assert math.isfinite(row.weight)
            assert row.weight > 0
            assert row.taps in ("", "stages", "joint", "last", "middle", "pooled")
            assert row.make is LOSSES[name]


@every_loss
def test_docstring_says_whence_to_what_blind_and_at_what_cost(name: str) -> None:
    read = signatures.losses()[name]
    assert read.about.endswith(".")
    for told in (read.source, read.blind_to, read.extra_cost):
        assert told.endswith(".")
        assert "\n" not in told


def test_exceptions_are_of_tests_that_exist_and_say_why() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(EXCEPT) | set(WIDTHS) <= set(LOSSES)
    for reasons in EXCEPT.values():
        assert set(reasons) <= tests - {"test_equals_its_oracle"}
        assert all(len(why.split()) > 3 for why in reasons.values())


@every_case
def test_equals_its_oracle(name: str, options: dict[str, Any]) -> None:
    for width in WIDTHS.get(name, (1, 2, 5)):
        for seed in range(1 if signatures.losses()[name].taps else 3):
            student, teacher, target, *index = sample(name, width=width, seed=seed)
            loss = made(name, options, width=width)
            more: dict[str, Any] = {"loss": loss} if isinstance(loss, nn.Module) else {}
            more |= {"index": index[0].tolist()} if index else {}
            expected = ORACLES[name](plain(student), plain(teacher), target.tolist(), **more, **options)
            value = value_of(name, options, [student, teacher, target, *index], width=width)
            assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


# --- the contract every loss keeps ---------------------------------------------------------------


@every_case
@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_gives_a_scalar_in_float32_or_better(
    name: str, options: dict[str, Any], given_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    student, *others = sample(name)
    student = with_each(student, lambda x: x.to(given_dtype))
    loss = made(name, options)
    torch.manual_seed(1)
    value = (loss.to(dtype) if isinstance(loss, nn.Module) else loss)(student, *others)
    assert value.shape == ()
    assert value.dtype == dtype
    raised = value_of(name, options, [with_each(student, Tensor.double), *others])  # the same numbers, exactly
    assert value.item() == pytest.approx(raised.item(), rel=1e-4 if isinstance(loss, nn.Module) else 1e-5, abs=1e-7)


@every_case
def test_gradient_reaches_the_student_and_never_the_teacher(name: str, options: dict[str, Any]) -> None:
    parts = learning(sample(name))
    parts[1] = with_each(parts[1], lambda x: x.requires_grad_())
    before = [with_each(part, lambda x: x.detach().clone()) for part in parts]
    loss = made(name, options)
    loss(*parts).backward()
    for gradient in gradients(parts[0]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    assert all(teacher.grad is None for teacher in each(parts[1]))
    for old, new in zip(before, parts, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(each(old), each(new), strict=True))
    for weight in loss.parameters() if isinstance(loss, nn.Module) else ():
        assert weight.requires_grad is (weight.grad is not None)
        assert weight.grad is None or weight.grad.isfinite().all()


@every_case
def test_gradient_is_that_of_the_value(name: str, options: dict[str, Any]) -> None:
    student, *others = learning(sample(name))

    def value(*features: Tensor) -> Tensor:
        return value_of(name, options, [features[0] if isinstance(student, Tensor) else list(features), *others])

    # Features have many numbers: there, along random directions alone.
    along = bool(signatures.losses()[name].taps)
    assert torch.autograd.gradcheck(value, tuple(each(student)), fast_mode=along)


@every_case
def test_order_of_the_batch_is_irrelevant(name: str, options: dict[str, Any]) -> None:
    parts = sample(name)
    shuffled = value_of(name, options, rows(parts, torch.tensor([3, 0, 5, 1, 4, 2])))
    assert shuffled.item() == pytest.approx(value_of(name, options, parts).item(), rel=1e-11)


@every_case
def test_batch_given_twice_has_the_same_value(name: str, options: dict[str, Any]) -> None:
    parts = sample(name)
    twice = value_of(name, options, rows(parts, torch.arange(12) % 6))
    assert twice.item() == pytest.approx(value_of(name, options, parts).item(), rel=1e-11)


@every_loss
def test_is_at_its_least_where_it_says(name: str) -> None:
    student, _, _, *index = sample(name)
    teacher, target, least = BEST[name](student, made(name, {}))
    assert value_of(name, {}, [student, teacher, target, *index]).item() == pytest.approx(least, abs=1e-12)
    noise = torch.Generator().manual_seed(1)
    step = with_each(student, lambda x: torch.randn(x.shape, generator=noise, dtype=torch.float64))
    for size in (1e-3, 0.1, 1.0):
        parts = zip(each(student), each(step), strict=True)
        moved: Any = [feature + size * change for feature, change in parts]
        moved = moved[0] if isinstance(student, Tensor) else moved
        assert value_of(name, {}, [moved, teacher, target, *index]).item() >= least


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_large_and_small_inputs_stay_finite(
    name: str, options: dict[str, Any], dtype: torch.dtype, size: float
) -> None:
    student, teacher, *others = sample(name)
    student = with_each(student, lambda x: (x / x.abs().max() * size).to(dtype).requires_grad_())
    teacher = with_each(teacher, lambda x: (-x * size).clamp(-6e4, 6e4).to(dtype))
    loss = made(name, options)
    value = (loss.float() if isinstance(loss, nn.Module) else loss)(student, teacher, *others)
    value.backward()
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(student))


@every_case
def test_what_is_not_finite_is_never_hidden(name: str, options: dict[str, Any]) -> None:
    for side in (0, 1) if needs_teacher(made(name, options)) else (0,):
        parts = sample(name)
        each(parts[side])[0][2, 1] = math.nan
        assert value_of(name, options, parts).isnan()


@every_case
def test_empty_batch_gives_zero_with_a_gradient(name: str, options: dict[str, Any]) -> None:
    parts = learning(rows(sample(name), slice(0, 0)))
    value = value_of(name, options, parts)
    value.backward()
    assert value.item() == 0
    assert all(student.grad is not None for student in each(parts[0]))


@every_case
def test_batch_of_one_is_finite_or_refused(name: str, options: dict[str, Any]) -> None:
    parts, refused = learning(rows(sample(name), slice(2, 3))), None
    try:
        value = value_of(name, options, parts)
        value.backward()
    except UserError as error:
        refused = error
    if refused:
        assert refused.hint
        return
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(parts[0]))


@pytest.mark.parametrize("name", with_labels())
def test_ignored_rows_count_for_nothing(name: str) -> None:
    parts = learning(sample(name))
    kept = torch.tensor([0, 2, 4, 5])
    expected = value_of(name, {}, rows(parts, kept))
    labels = parts[2].clone()
    labels[[1, 3]] = -100
    value = value_of(name, {}, [*parts[:2], labels, *parts[3:]])
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    assert all(gradient[[1, 3]].abs().max() == 0 for gradient in gradients(parts[0]))
    none = value_of(name, {}, [*parts[:2], torch.full_like(labels, -100), *parts[3:]])
    assert none.item() == 0


@every_case
def test_autocast_changes_nothing(name: str, options: dict[str, Any]) -> None:
    parts = [with_each(part, lambda x: x.float() if x.is_floating_point() else x) for part in sample(name)]
    values = []
    for autocast in (True, False):
        loss = made(name, options)
        loss = loss.float() if isinstance(loss, nn.Module) else loss
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            values.append(loss(*parts))
    assert torch.equal(*values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own doing
@every_loss
def test_compiled_it_is_the_same(name: str) -> None:
    """Traced and differentiated as for a compiler; the compiler itself would take minutes for all losses."""
    torch._dynamo.reset()
    values, found = [], []
    for compiled in (False, True):
        parts = learning(sample(name))
        loss = made(name, {})
        torch.manual_seed(1)
        values.append((torch.compile(loss, backend="aot_eager") if compiled else loss)(*parts))
        values[-1].backward()
        found.append(gradients(parts[0]))
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if inspect.isclass(loss)])
def test_weights_and_memory_are_saved_whole(name: str) -> None:
    parts, others = sample(name), sample(name, seed=1)
    values = []
    first, second = made(name, {}), made(name, {}, seed=7)
    first(*parts)
    second.load_state_dict(first.state_dict())
    for loss in (first, second):
        torch.manual_seed(2)
        values.append(loss(*others))
    assert torch.equal(*values)


# --- what is refused -----------------------------------------------------------------------------


@every_loss
def test_absent_teacher_is_refused_only_where_it_is_needed(name: str) -> None:
    student, teacher, *others = sample(name)
    if needs_teacher(made(name, {})):
        with pytest.raises(UserError, match="learns from a teacher"):
            value_of(name, {}, [student, None, *others])
    else:
        other = value_of(name, {}, [student, -teacher, *others])
        assert torch.equal(value_of(name, {}, [student, None, *others]), other)


@every_loss
def test_teacher_of_other_rows_or_classes_is_refused(name: str) -> None:
    student, teacher, *others = sample(name)
    if not needs_teacher(made(name, {})):
        assert value_of(name, {}, [student, teacher[:, :3], *others]).isfinite()
        return
    with pytest.raises(UserError, match=r"\[6, .* and the teacher's \[1, "):
        value_of(name, {}, [student, with_each(teacher, lambda x: x[:1]), *others])
    if not signatures.losses()[name].taps:
        with pytest.raises(UserError, match=r"student gives 5 outputs a row and the teacher 3"):
            value_of(name, {}, [student, teacher[:, :3], *others])


@every_loss
def test_target_of_another_shape_is_refused(name: str) -> None:
    student, teacher, target, *index = sample(name)
    wrong = target[:-1] if target.ndim == 1 else target[:, :-1]
    if name == "mse":
        assert value_of(name, {}, [student, teacher, wrong]).isfinite()  # measured targets do not matter to it
        wrong = torch.zeros(5, dtype=torch.long)
    with pytest.raises(UserError, match=r"\[(5|6, 4)\]"):
        value_of(name, {}, [student, teacher, wrong, *index])


@every_loss_on_predictions
def test_output_without_a_batch_is_refused(name: str) -> None:
    student, teacher, target, *index = (part[0] for part in sample(name))
    with pytest.raises(UserError, match=r"shape \[5\], and a loss needs rows"):
        value_of(name, {}, [student, teacher, target, *index])


# --- bind ----------------------------------------------------------------------------------------


def test_signatures_read_from_source_are_the_real_ones() -> None:
    assert set(signatures.losses()) == set(LOSSES)
    for name, loss in LOSSES.items():
        read, arguments = signatures.losses()[name], inspect.signature(loss).parameters.values()
        real = {a.name: (a.annotation, a.default) for a in arguments if a.kind is a.KEYWORD_ONLY}
        assert read.options == real
        assert read.needs_teacher == needs_teacher(made(name, {}))
        assert read.about


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, "unknown loss 'kdd'.*did you mean 'kd'"),
        ("kd", {"temprature": 2.0}, "loss 'kd': no option 'temprature'.*did you mean 'temperature'"),
        ("kd", {"temperature": "4"}, "option 'temperature' is a float, not '4'"),
        ("kd", {"temperature": True}, "option 'temperature' is a float, not True"),
        ("kd", {"temperature": None}, "option 'temperature' is a float, not None"),
        ("mse", {"beta": 1.0}, "no option 'beta'.*nothing is known here"),
    ],
)
def test_bind_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        bind(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kd", {"temperature": 0}),
        ("kd", {"temperature": math.nan}),
        ("hard", {"label_smoothing": 1.5}),
        ("label_smooth_l1", {"beta": -1.0}),
        ("teacher_bounded", {"margin": -0.1}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        value_of(name, options, sample(name))


def test_numbers_of_an_option_are_a_list_or_tuple_of_numbers() -> None:
    signature = signatures.Signature("logit", {"temperatures": ("tuple[float, ...]", (1.0, 2.0))}, True, "")
    assert signatures.misfit({}, signature) is None
    assert signatures.misfit({"temperatures": [3, 4.5]}, signature) is None
    assert signatures.misfit({"temperatures": (3.0,)}, signature) is None
    for wrong in (3.0, "34", [3.0, "4"], [True], [math.inf], [math.nan], None):
        found = signatures.misfit({"temperatures": wrong}, signature)
        assert found is not None
        assert found[0].startswith("option 'temperatures' is a list of numbers, not ")


def test_bind_makes_a_module_of_a_loss_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose loss is a class, as projectors will be."""
    family = tmp_path / "losses" / "projected.py"
    family.parent.mkdir()
    family.write_text(
        "from torch import nn\n"
        "class Projected(nn.Module):\n"
        "    def __init__(self, *, width: int, scale: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.scale, self.map = scale, nn.Linear(width, width)\n"
        "    def forward(self, student, _teacher, target):\n"
        "        return self.scale * self.map(student).square().mean()\n"
        "LOSSES = {'projected': Projected}\n"
    )
    spec = importlib.util.spec_from_file_location("projected", family)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signatures, "HERE", tmp_path)
    monkeypatch.setattr(limbeck.losses, "LOSSES", module.LOSSES)
    signatures.losses.cache_clear()
    try:
        loss = bind("projected", width=3, scale=2)
        assert isinstance(loss, nn.Module)
        assert not needs_teacher(loss)
        assert loss(torch.ones(2, 3), None, torch.zeros(2)).requires_grad
        with pytest.raises(UserError, match=r"the option 'width' \(int\) is missing"):
            bind("projected")
        with pytest.raises(UserError, match="option 'width' is a int, not"):
            bind("projected", width=3.0)
    finally:
        signatures.losses.cache_clear()


def test_a_callable_of_ones_own_counts_as_learning_from_the_teacher() -> None:
    assert needs_teacher(lambda s, t, y: s.sum())
    assert needs_teacher(lambda *outputs: outputs[0].sum())
    assert not needs_teacher(lambda s, _t, y: s.sum())
    assert needs_teacher(max)


@pytest.mark.parametrize("module", [limbeck.losses, *FAMILIES.values()], ids=lambda module: module.__name__)
def test_examples_in_the_docstrings_run(module: ModuleType) -> None:
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_bind_and_the_first_losses_show_an_example() -> None:
    for module in (limbeck.losses, FAMILIES["logit"]):
        assert doctest.testmod(module, extraglobs={"torch": torch}).attempted > 0
