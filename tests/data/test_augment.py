from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from limbeck.core.errors import UserError
from limbeck.core.types import Fetch
from limbeck.data.augment import DRAWS, augment, keyed, uniform
from limbeck.recipe import Augment, Blur, Jitter

EVERYTHING = Augment(
    flip=0.5,
    shift=2,
    rotate=30.0,
    blur=Blur(kernel=5, sigma=(0.1, 3.0)),
    jitter=Jitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.3),
    cutout=0.3,
)
ROWS = 23
STORE = torch.rand(ROWS, 3, 11, 13, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(ROWS) % 4
seeds = st.integers(0, 2**63 - 1)
views = st.integers(0, 1000)
few = settings(max_examples=15, deadline=None)


def fetching(
    spec: Augment, pixels: Tensor = STORE, labels: Tensor = LABELS, *, rows: Tensor | None = None, seed: int = 0
) -> Fetch:
    rows = torch.arange(len(pixels)) if rows is None else rows
    classes = int(labels.max()) + 1
    return keyed(spec, seed=seed, rows=rows, pixels=lambda r: pixels[r], labels=lambda r: labels[r], classes=classes)


def never(rows: Tensor) -> Tensor:
    raise AssertionError(f"asked for the rows {rows} as they are, although their views are stored")


def python_bits(seed: int, row: int, view: int, name: str) -> int:
    """The same hash a second time, in Python's whole numbers."""
    mask = 2**64 - 1

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    gamma, state = 0x9E3779B97F4A7C15, 0
    for part in (seed, view, DRAWS.index(name)):
        state = mix((state + (part + 1) * gamma) & mask)
    return mix((state + row * gamma) & mask)


def python_uniform(seed: int, row: int, view: int, name: str) -> float:
    return (python_bits(seed, row, view, name) >> 40) / 2**24


# --- the numbers ---------------------------------------------------------------------------------


@given(seeds, st.integers(0, 2**40), views, st.sampled_from(DRAWS))
@few
def test_hash_is_splitmix(seed: int, row: int, view: int, name: str) -> None:
    assert uniform(seed, torch.tensor([row]), view, name).item() == python_uniform(seed, row, view, name)


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_uniform(name: str) -> None:
    drawn = uniform(7, torch.arange(20_000), 3, name)
    assert 0 <= drawn.min() < drawn.max() < 1
    counts = np.histogram(drawn.numpy(), bins=50, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_draws_are_uncorrelated() -> None:
    rows = torch.arange(20_000)
    series = [uniform(7, rows, 3, name) for name in DRAWS]
    series += [uniform(7, rows, 4, "flip"), uniform(8, rows, 3, "flip"), uniform(7, rows + 1, 3, "flip")]
    matrix = np.corrcoef(torch.stack(series).numpy()) - np.eye(len(series))
    assert np.abs(matrix).max() < 5 / math.sqrt(20_000)


# --- a pure function of (seed, row, view) --------------------------------------------------------


@given(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=40), seeds, views, st.booleans())
@few
def test_same_whatever_the_batch(rows: list[int], seed: int, view: int, grey: bool) -> None:
    store = STORE[:, :1] if grey else STORE
    whole = augment(store, seed, torch.arange(ROWS), view, EVERYTHING)
    index = torch.tensor(rows)
    assert torch.equal(augment(store[index], seed, index, view, EVERYTHING), whole[index])
    assert 0 <= whole.min() <= whole.max() <= 1
    assert whole.dtype == torch.float32
    assert whole.shape == store.shape


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_alone_and_among_many(threads: int, layout: torch.memory_format) -> None:
    # Large enough for kernels to split the work among threads, which small examples never make them do.
    x = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    rows, before = torch.arange(32), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = augment(x.to(memory_format=layout), 5, rows, 1, EVERYTHING)
        for size in (1, 7):
            parts = [augment(a, 5, b, 1, EVERYTHING) for a, b in zip(x.split(size), rows.split(size), strict=True)]
            assert torch.equal(torch.cat(parts), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@given(st.permutations(range(ROWS)), st.integers(1, ROWS), seeds)
@few
def test_mixing_same_whatever_the_batch(mix: str, order: list[int], size: int, seed: int) -> None:
    spec = EVERYTHING.model_copy(update={mix: 0.7})
    fetch = fetching(spec, seed=seed, rows=torch.arange(3, ROWS))
    whole = fetch(torch.arange(ROWS), 2)
    for rows in torch.tensor(order).split(size)[:4]:
        part = fetch(rows, 2)
        assert torch.equal(part.x, whole.x[rows])
        assert torch.equal(part.y, whole.y[rows])
        assert torch.equal(part.index, rows)
        assert part.view == 2


def test_differs_between_views_seeds_and_rows() -> None:
    same = STORE[:1].expand(8, -1, -1, -1)
    rows = torch.arange(8)
    first = augment(same, 0, rows, 0, EVERYTHING)
    assert len({tuple(sample.flatten().tolist()) for sample in first}) == 8
    for other in (augment(same, 1, rows, 0, EVERYTHING), augment(same, 0, rows, 1, EVERYTHING)):
        assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_each_operation_draws_for_itself() -> None:
    # What an operation draws alone it draws in company: one after the other they give what they give together.
    rows, x = torch.arange(ROWS), STORE
    for part in ("flip", "shift", "rotate", "blur", "jitter", "cutout"):
        before = x
        x = augment(x, 3, rows, 0, Augment(**{part: getattr(EVERYTHING, part)}))
        assert not torch.equal(x, before)
    assert torch.equal(x, augment(STORE, 3, rows, 0, EVERYTHING))


# --- what each operation does --------------------------------------------------------------------


def test_flip_and_shift_move_whole_pixels() -> None:
    spec, rows = Augment(flip=0.5, shift=3), torch.arange(ROWS)
    moved = augment(STORE, 11, rows, 0, spec)
    seen = set()
    for row in range(ROWS):
        flipped = python_uniform(11, row, 0, "flip") < 0.5
        right, down = (math.floor(7 * python_uniform(11, row, 0, name)) - 3 for name in ("shift_x", "shift_y"))
        expected = STORE[row].numpy()[:, :, ::-1] if flipped else STORE[row].numpy()
        expected = np.pad(expected, ((0, 0), (3, 3), (3, 3)), mode="symmetric")
        expected = expected[:, 3 - down : 14 - down, 3 - right : 16 - right]
        assert np.array_equal(moved[row].numpy(), expected)
        seen.add((flipped, right, down))
    assert {s[0] for s in seen} == {True, False}
    assert {s[1] for s in seen} == {s[2] for s in seen} == set(range(-3, 4))


@pytest.mark.parametrize("size", [(20, 20), (18, 30)])
def test_rotation_matches_torchvision(size: tuple[int, int]) -> None:
    x = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(3))
    turned = augment(x, 4, torch.arange(6), 2, Augment(rotate=25.0))
    inside = torch.zeros(size, dtype=torch.bool)
    middle = torch.tensor(size) // 2  # away from the border, which torchvision fills with black and we with reflection
    inside[middle[0] - 5 : middle[0] + 5, middle[1] - 5 : middle[1] + 5] = True
    for row in range(6):
        degrees = 25.0 * (2 * python_uniform(4, row, 2, "rotate") - 1)
        expected = tv.rotate(x[row], degrees, interpolation=tv.InterpolationMode.BILINEAR)
        assert torch.allclose(turned[row][:, inside], expected[:, inside], atol=2e-5)
        assert turned[row].min() > 0  # no black corners


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_blur_matches_torchvision(kernel: int) -> None:
    spec = Augment(blur=Blur(kernel=kernel, sigma=(0.1, 3.0)))
    blurred = augment(STORE, 9, torch.arange(ROWS), 1, spec)
    for row in range(ROWS):
        sigma = 0.1 + 2.9 * python_uniform(9, row, 1, "blur")
        assert torch.allclose(blurred[row], tv.gaussian_blur(STORE[row], [kernel, kernel], [sigma, sigma]), atol=1e-6)


def test_jitter_matches_torchvision() -> None:
    spec = Augment(jitter=Jitter(brightness=0.5, contrast=0.6, saturation=0.7, hue=0.5))
    x = STORE.clone()
    x[0, 1:] = x[0, :1]  # a grey image in colour has no hue to turn
    x[1, :, :, :] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    jittered = augment(x, 21, torch.arange(ROWS), 5, spec)
    for row in range(ROWS):
        drawn = {name: 2 * python_uniform(21, row, 5, name) - 1 for name in DRAWS}
        expected = tv.adjust_brightness(x[row], 1 + 0.5 * drawn["brightness"])
        expected = tv.adjust_contrast(expected, 1 + 0.6 * drawn["contrast"])
        expected = tv.adjust_saturation(expected, 1 + 0.7 * drawn["saturation"])
        expected = tv.adjust_hue(expected, 0.5 * drawn["hue"])
        assert torch.allclose(jittered[row], expected, atol=2e-5)


def test_jitter_leaves_the_colour_of_grey_images_alone() -> None:
    grey = STORE[:, :1]
    assert torch.equal(augment(grey, 0, torch.arange(ROWS), 0, Augment(jitter=Jitter(saturation=0.9, hue=0.5))), grey)
    lit = augment(grey, 0, torch.arange(ROWS), 0, Augment(jitter=Jitter(brightness=0.4, contrast=0.4)))
    for row in range(ROWS):
        brightness, contrast = (1 + 0.4 * (2 * python_uniform(0, row, 0, n) - 1) for n in ("brightness", "contrast"))
        expected = tv.adjust_contrast(tv.adjust_brightness(grey[row], brightness), contrast)
        assert torch.allclose(lit[row], expected, atol=1e-5)


def test_cutout_puts_the_mean_colour_into_a_square() -> None:
    x = torch.rand(50, 3, 10, 10, generator=torch.Generator().manual_seed(6))
    cut = augment(x, 2, torch.arange(50), 0, Augment(cutout=0.4))
    for row in range(50):
        left, top = (math.floor(10 * python_uniform(2, row, 0, name)) - 2 for name in ("cutout_x", "cutout_y"))
        expected = x[row].clone()
        expected[:, max(top, 0) : top + 4, max(left, 0) : left + 4] = x[row].mean((1, 2)).view(3, 1, 1)
        assert torch.allclose(cut[row], expected, atol=1e-6)


# --- mixing --------------------------------------------------------------------------------------


@given(st.floats(0.05, 5), seeds, views)
@few
def test_mixup_mixes_pixels_and_shares_alike(alpha: float, seed: int, view: int) -> None:
    rows = torch.arange(5, ROWS)
    mixed = fetching(Augment(mixup=alpha), seed=seed, rows=rows)(torch.arange(ROWS), view)
    assert mixed.y.dtype == torch.float32
    for row in range(ROWS):
        partner = int(rows[((python_bits(seed, row, view, "partner") >> 33) * len(rows)) >> 31])
        ratio = stats.beta.ppf(python_uniform(seed, row, view, "ratio") + 2**-25, alpha, alpha)
        expected = torch.zeros(4)
        expected[LABELS[row]] += ratio
        expected[LABELS[partner]] += 1 - ratio
        assert torch.allclose(mixed.y[row], expected, atol=1e-6)
        assert torch.allclose(mixed.x[row], ratio * STORE[row] + (1 - ratio) * STORE[partner], atol=1e-6)


def test_mixing_ratios_follow_beta() -> None:
    # Rows that are black and of class 0 meet partners that are white and of class 1.
    rows, label = torch.arange(8000), (torch.arange(8000) >= 4000).long()
    for alpha in (0.2, 1.0, 3.0):
        fetch = fetching(Augment(mixup=alpha), label.float().view(-1, 1, 1, 1), label, rows=rows[4000:], seed=1)
        mixed = fetch(rows[:4000], 0)
        assert stats.kstest(mixed.y[:, 0].numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
        assert torch.allclose(mixed.x[:, 0, 0, 0], mixed.y[:, 1], atol=1e-6)


def test_cutmix_share_is_the_area_pasted() -> None:
    label = 2 * (torch.arange(6000) >= 3000).long()
    white = (label / 2).view(-1, 1, 1, 1).expand(-1, 1, 8, 10)
    mixed = fetching(Augment(cutmix=1.0), white, label, rows=torch.arange(3000, 6000), seed=1)(torch.arange(3000), 0)
    pasted = mixed.x.mean((1, 2, 3))
    assert set(mixed.x.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(mixed.y[:, 2], pasted, atol=1e-6)
    assert torch.allclose(mixed.y.sum(1), torch.ones(3000), atol=1e-6)
    # A box: its pixels are the product of a run of rows and a run of columns.
    tall, wide = mixed.x.amax(3).sum((1, 2)), mixed.x.amax(2).sum((1, 2))
    assert torch.equal(tall * wide, mixed.x.sum((1, 2, 3)))
    assert pasted.min() == 0
    assert pasted.max() == 1


def test_partners_come_from_the_training_rows_evenly() -> None:
    training, index = torch.tensor([3, 5, 8, 1000, 70_000]), torch.arange(5000)
    asked: list[Tensor] = []

    def spy(rows: Tensor, view: int) -> Tensor:
        assert view == 6
        asked.append(rows)
        return torch.zeros(len(rows), 1, 4, 4)

    keyed(
        Augment(mixup=1.0), seed=0, rows=training, pixels=never, labels=torch.zeros_like, classes=2, views=spy
    )(index, 6)  # fmt: skip
    own, partners = asked
    assert torch.equal(own, index)
    counts = torch.bincount(partners, minlength=70_001)[training]
    assert counts.sum() == 5000
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 100.0])
def test_extreme_alphas_stay_finite(alpha: float) -> None:
    mixed = fetching(Augment(mixup=alpha), seed=3)(torch.arange(ROWS), 0)
    assert mixed.x.isfinite().all()
    assert torch.allclose(mixed.y.sum(1), torch.ones(ROWS), atol=1e-6)


# --- images of 8 bits ----------------------------------------------------------------------------


@given(st.permutations(range(ROWS)), st.integers(1, ROWS), seeds, views)
@few
def test_what_is_fetched_has_8_bits(order: list[int], size: int, seed: int, view: int) -> None:
    whole, exact = fetching(EVERYTHING, seed=seed)(torch.arange(ROWS), view).x, STORE.clone()
    exact = augment(exact, seed, torch.arange(ROWS), view, EVERYTHING)
    assert (whole - exact).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(whole, (whole * 255).round().to(torch.uint8).float() / 255)  # through bytes and back
    for rows in torch.tensor(order).split(size)[:4]:
        fetched = fetching(EVERYTHING, seed=seed)(rows, view)
        assert torch.equal(fetched.x, whole[rows])
        assert torch.equal(fetched.y, LABELS[rows])


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_stored_views_change_nothing(mix: str) -> None:
    # Stored as bytes, the mixture of two images is the same to the bit, although it has more than 8 bits itself.
    spec, rows = EVERYTHING.model_copy(update={mix: 0.7}), torch.arange(ROWS)
    stored = (fetching(EVERYTHING, seed=5)(rows, 3).x * 255).round().to(torch.uint8)

    def read(asked: Tensor, view: int) -> Tensor:
        assert view == 3
        return stored[asked].float() / 255

    live = fetching(spec, seed=5)(rows[::2], 3)
    read_again = keyed(
        spec, seed=5, rows=rows, pixels=never, labels=lambda r: LABELS[r], classes=4, views=read
    )(rows[::2], 3)  # fmt: skip
    assert torch.equal(live.x, read_again.x)
    assert torch.equal(live.y, read_again.y)
    if mix == "mixup":
        assert not torch.equal(live.x, (live.x * 255).round() / 255)


def test_large_images_are_augmented_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # No more of them at once than stay in the processor's cache; what comes out does not tell.
    x, rows, asked = torch.rand(7, 3, 40, 50, generator=torch.Generator().manual_seed(8)), torch.arange(7), []

    def pixels(some: Tensor) -> Tensor:
        asked.append(len(some))
        return x[some]

    def images() -> Tensor:
        return keyed(EVERYTHING, seed=1, rows=rows, pixels=pixels, labels=torch.zeros_like, classes=2)(rows, 0).x

    together = images(), augment(x, 1, rows, 0, EVERYTHING)
    monkeypatch.setattr("limbeck.data.augment.images.CACHED", 2 * x[0].numel() + 1)
    assert torch.equal(images(), together[0])
    assert torch.equal(augment(x, 1, rows, 0, EVERYTHING), together[1])
    assert asked == [1, 7, 1, 2, 2, 2, 1]


def test_what_is_augmented_stays_as_it_was() -> None:
    before = STORE.clone()
    for part in ("flip", "shift", "rotate", "blur", "jitter", "cutout"):
        augment(STORE, 1, torch.arange(ROWS), 0, Augment(**{part: getattr(EVERYTHING, part)}))
    assert torch.equal(STORE, before)


# --- what does not fit ---------------------------------------------------------------------------


def test_nothing_switched_on_gives_the_rows_themselves() -> None:
    table, values = torch.rand(3, 5), torch.rand(3, 2)
    rows = torch.tensor([2, 0])
    fetched = keyed(
        Augment(), seed=0, rows=torch.arange(3), pixels=lambda r: table[r], labels=lambda r: values[r], classes=2
    )(rows, 4)  # fmt: skip
    assert torch.equal(fetched.x, table[rows])
    assert torch.equal(fetched.y, values[rows])
    assert torch.equal(fetched.index, rows)
    assert fetched.view == 4


def test_no_rows_are_no_rows() -> None:
    none = torch.arange(0)
    for mix in ({}, {"mixup": 1.0}, {"cutmix": 1.0}):
        fetched = fetching(EVERYTHING.model_copy(update=mix))(none, 0)
        assert fetched.x.shape == (0, 3, 11, 13)
        assert len(fetched.y) == len(fetched.index) == 0


@pytest.mark.parametrize("spec", [Augment(flip=0.5), Augment(mixup=1.0)])
def test_tables_are_refused_before_training(spec: Augment) -> None:
    with pytest.raises(UserError, match="vectors of 5 numbers"):
        fetching(spec, torch.rand(3, 5), torch.zeros(3, dtype=torch.int64))


def test_blur_larger_than_the_image_is_refused() -> None:
    spec = Augment(blur=Blur(kernel=17))
    assert augment(torch.rand(2, 1, 9, 9), 0, torch.arange(2), 0, spec).shape == (2, 1, 9, 9)
    with pytest.raises(UserError, match="at most 15"):
        augment(torch.rand(2, 1, 8, 9), 0, torch.arange(2), 0, spec)
