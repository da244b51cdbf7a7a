"""Low-rank factorisation: the contract, the factors against numpy, and which ranks are chosen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_samples import NETWORKS, Before, made, outputs, parameters, rebuilt
from torch import Tensor, nn

from limbeck import compress
from limbeck.compress.ranks import (
    channel_svd,
    energy_rank,
    evbmf_rank,
    singular_values,
    spatial_svd,
    svd_linear,
    tucker2,
)
from limbeck.core.errors import UserError
from limbeck.distill.objective.feature_taps import Taps

# --- factors -------------------------------------------------------------------------------------

CONVOLUTIONS = [
    pytest.param({"kernel_size": 3, "stride": 2, "padding": 1}, id="stride"),
    pytest.param({"kernel_size": (3, 5), "stride": (2, 1), "padding": (2, 1), "dilation": (2, 1)}, id="uneven"),
    pytest.param({"kernel_size": (1, 3), "padding": "same", "bias": False}, id="same"),
    pytest.param({"kernel_size": 3, "padding": "valid", "dilation": 2}, id="valid"),
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("method", [channel_svd, spatial_svd, tucker2])
def test_at_full_rank_factors_give_what_the_convolution_gives(method, options: dict) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 12, **options)
    out, into, height, width = layer.weight.shape
    rank = {
        channel_svd: min(out, into * height * width),
        spatial_svd: min(into * height, out * width),
        tucker2: (out, into),
    }
    x = torch.randn(2, 16, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(method(layer, rank[method])(x), layer(x), rtol=0, atol=1e-5)


def test_at_full_rank_factors_give_what_the_linear_layer_gives() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 12), torch.randn(4, 5, 20)
    with torch.no_grad():
        torch.testing.assert_close(svd_linear(layer, 12)(x), layer(x), rtol=0, atol=1e-5)


def tail(matrix: np.ndarray, rank: int) -> float:
    """The squared singular values beyond `rank`, added: the least error of any matrix of that rank."""
    return float((np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum())


def numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_svd_factors_are_the_best_of_their_rank(rank: int) -> None:
    torch.manual_seed(0)
    linear, conv = nn.Linear(20, 12), nn.Conv2d(16, 12, (3, 5))
    first, second = svd_linear(linear, rank)
    weight = numpy(linear.weight)
    error = ((numpy(second.weight) @ numpy(first.weight) - weight) ** 2).sum()
    assert error == pytest.approx(tail(weight, rank), rel=1e-5)

    weight = numpy(conv.weight)
    first, second = channel_svd(conv, rank)
    made_of = np.einsum("or,rihw->oihw", numpy(second.weight)[..., 0, 0], numpy(first.weight))
    assert ((made_of - weight) ** 2).sum() == pytest.approx(tail(weight.reshape(12, -1), rank), rel=1e-5)

    first, second = spatial_svd(conv, rank)
    made_of = np.einsum("rih,orw->oihw", numpy(first.weight)[..., 0], numpy(second.weight)[:, :, 0])
    unfolded = weight.transpose(1, 2, 0, 3).reshape(48, 60)
    assert ((made_of - weight) ** 2).sum() == pytest.approx(tail(unfolded, rank), rel=1e-5)


@pytest.mark.parametrize("ranks", [(3, 5), (8, 2), (1, 1)])
def test_tucker_lies_between_the_bounds_and_below_one_sweep(ranks: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 12, 3)
    weight = numpy(conv.weight)
    first, core, last = tucker2(conv, ranks)
    made_of = np.einsum(
        "or,rshw,si->oihw", numpy(last.weight)[..., 0, 0], numpy(core.weight), numpy(first.weight)[..., 0, 0]
    )
    error = ((made_of - weight) ** 2).sum()
    modes = [weight.reshape(12, -1), weight.swapaxes(0, 1).reshape(16, -1)]
    tails = [tail(mode, rank) for mode, rank in zip(modes, ranks, strict=True)]
    u_out, u_in = (np.linalg.svd(mode)[0][:, :rank] for mode, rank in zip(modes, ranks, strict=True))
    truncated = np.einsum("oihw,or,pr,is,qs->pqhw", weight, u_out, u_out, u_in, u_in)
    assert max(tails) * (1 - 1e-6) <= error <= ((truncated - weight) ** 2).sum() * (1 + 1e-6) <= sum(tails) * (1 + 1e-5)


def test_the_factors_of_a_layer_have_weights_of_one_size() -> None:
    torch.manual_seed(0)
    for factors in (spatial_svd(nn.Conv2d(16, 32, 3), 8), tucker2(nn.Conv2d(16, 32, 3), (8, 8))):
        norms = [float(layer.weight.detach().norm()) for layer in factors]
        assert max(norms) < 1.05 * min(norms)


# --- ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (1, 5), (7, 7)])
def test_singular_values_are_numpys(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    wanted = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(singular_values(torch.tensor(matrix)).numpy(), wanted, rtol=1e-10, atol=1e-7)


def test_a_layer_of_zeros_has_factors() -> None:
    layer = nn.Linear(6, 4)
    nn.init.zeros_(layer.weight)
    factors = svd_linear(layer, 2)
    assert all((part.weight == 0).all() for part in factors)
    assert energy_rank(singular_values(layer.weight.detach().double()), 0.9) == 1


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (16 / 30, 1), (0.54, 2), (25 / 30, 2), (0.97, 4), (1.0, 4)])
def test_the_energy_rank_is_the_smallest_with_that_share(energy: float, rank: int) -> None:
    assert energy_rank(torch.tensor([4.0, 3.0, 2.0, 1.0]), energy) == rank  # squares 16, 9, 4, 1 of 30


def planted(rows: int, columns: int, rank: int, strength: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, columns))
    return strength * signal + generator.normal(size=(rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(40, 60), (60, 40), (32, 300), (50, 50)])
@pytest.mark.parametrize("rank", [0, 1, 5, 10])
def test_evbmf_finds_the_planted_rank(rows: int, columns: int, rank: int) -> None:
    for seed in range(3):
        values = np.linalg.svd(planted(rows, columns, rank, 1.0, seed), compute_uv=False)
        assert evbmf_rank(torch.tensor(values), (rows, columns)) == rank


def free_energy(gamma: float, rows: int, columns: int, variance: float) -> float:
    """What one direction of singular value `gamma` gains over none, at the best found by coordinate descent.

    Twice the variational free energy of a rank-1 factor b a' with Gaussian priors of variances ca, cb on a [columns]
    and b [rows], and Gaussian noise; the direction is noise if this is not below 0.
    """
    best = math.inf
    for start in (0.5, 1.0, 2.0):
        a = b = math.sqrt(gamma) * start
        sa = sb = 0.1
        ca, cb = a * a / columns + sa, b * b / rows + sb
        for _ in range(4000):
            sa = 1 / (1 / ca + (b * b + rows * sb) / variance)
            a = sa * gamma * b / variance
            sb = 1 / (1 / cb + (a * a + columns * sa) / variance)
            b = sb * gamma * a / variance
            ca, cb = a * a / columns + sa, b * b / rows + sb
            if ca * cb < 1e-12:
                break
        second_a, second_b = a * a + columns * sa, b * b + rows * sb
        gain = (
            columns * math.log(ca / sa) + rows * math.log(cb / sb) - (rows + columns)
            + second_a / ca + second_b / cb + (second_a * second_b - 2 * a * b * gamma) / variance
        )  # fmt: skip
        best = min(best, gain)
    return best


@pytest.mark.parametrize(("rows", "columns"), [(12, 30), (20, 24)])
def test_evbmf_keeps_what_brute_force_would_keep(rows: int, columns: int) -> None:
    # Known noise: many directions of equal values, as a flat spectrum, fix the estimate; one stands out more and more.
    noise = np.linalg.svd(np.random.default_rng(1).normal(size=(rows, columns)), compute_uv=False)
    found = []
    for gamma in np.linspace(noise[0], 2.2 * noise[0], 25):
        values = np.array([gamma, *noise[1:]])
        count = evbmf_rank(torch.tensor(values), (rows, columns))
        # The noise that is left when `count` directions are explained: as the estimate, up to how much they take of it.
        variance = float((values[1:] ** 2).sum() / ((rows - 1) * (columns - 1)))
        found.append((count, free_energy(gamma, rows, columns, variance)))
    kept = [count for count, _ in found]
    assert kept == sorted(kept)
    assert set(kept) == {0, 1}
    brute = [int(gain < 0) for _, gain in found]
    assert set(brute) == {0, 1}
    assert abs(sum(brute) - sum(kept)) <= 2  # of 25 steps: the two estimate the noise differently


# --- the contract --------------------------------------------------------------------------------

# What of each network is wide enough to be worth it, and how.
CASES = [
    ("cnn", "spatial"),
    ("resnet", "spatial"),
    ("resnet", "channel"),
    ("resnet", "tucker"),
    ("mobilenet", "channel"),
    ("vit", "svd"),
    ("encoder", "spatial"),
    ("mlp", "svd"),
]


@dataclass(frozen=True)
class Factorised:
    name: str
    method: str
    model: nn.Module
    before: Before
    x: Tensor
    edit: compress.Edit
    small: nn.Module


def low_rank(model: nn.Module) -> None:
    """Make all weights nearly of rank 3, so that there is something to save in a small network."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                flat = module.weight.flatten(1)
                u, s, v = torch.linalg.svd(flat, full_matrices=False)
                s[3:] *= 1e-3
                module.weight.copy_((u * s @ v).view(module.weight.shape))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def factorised(request: pytest.FixtureRequest) -> Factorised:
    name, method = request.param
    model, x = made(name)
    if name == "mobilenet":  # its wide layers are pointwise and depthwise, which stay
        model[3] = nn.Conv2d(16, 64, 3, padding=1)
    low_rank(model)
    before = Before(model)
    edit = compress.plan_factorise(model, x, method=method, energy=0.99)
    return Factorised(name, method, model, before, x, edit, compress.apply(model, edit))


def test_the_model_is_untouched(factorised: Factorised) -> None:
    assert factorised.before.same(factorised.model)


def test_it_is_smaller_and_gives_nearly_the_same(factorised: Factorised) -> None:
    assert len(factorised.edit.layers) >= 1
    assert parameters(factorised.small) < parameters(factorised.model)
    old, new = outputs(factorised.model, factorised.x), outputs(factorised.small, factorised.x)
    assert old.shape == new.shape
    assert (new - old).norm() < 0.5 * old.norm()
    assert not torch.equal(new, old)


def test_every_factorised_layer_saves_parameters_and_no_other_changes(factorised: Factorised) -> None:
    old, new = dict(factorised.model.named_modules()), dict(factorised.small.named_modules())
    named = {row[0]: row for row in factorised.edit.layers}
    for name, module in old.items():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if name not in named:
                assert type(new[name]) is type(module)
                continue
            assert isinstance(new[name], nn.Sequential)
            assert parameters(new[name]) < parameters(module)
            assert named[name][4:] == (parameters(module), parameters(new[name]))
            assert [layer.training for layer in new[name]] == [module.training] * len(new[name])
            assert module.weight.shape[1] >= 16 or isinstance(module, nn.Linear)


def test_rebuilt_from_name_and_edits_it_is_the_same_bit_for_bit(factorised: Factorised, tmp_path: Path) -> None:
    if factorised.name == "mobilenet":
        fresh = NETWORKS["mobilenet"][0]()
        fresh[3] = nn.Conv2d(16, 64, 3, padding=1)
        fresh = compress.replay(fresh, [compress.read_edit(json.loads(factorised.edit.model_dump_json()))])
        fresh.load_state_dict(factorised.small.state_dict())
    else:
        fresh = rebuilt(factorised.name, factorised.small, [factorised.edit], tmp_path / "m.safetensors")
    assert torch.equal(outputs(fresh, factorised.x), outputs(factorised.small, factorised.x))


def test_it_can_be_trained(factorised: Factorised) -> None:
    model = compress.apply(factorised.model, factorised.edit).train()
    model(factorised.x).square().sum().backward()
    grown = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grown)


def test_the_plan_says_what_it_does(factorised: Factorised) -> None:
    lines = compress.describe(factorised.edit)
    assert len(lines) == len(factorised.edit.layers) + 1
    for line, (name, method, rank, *_) in zip(lines[:-1], factorised.edit.layers, strict=True):
        shown = " and ".join(map(str, rank)) if isinstance(rank, tuple) else str(rank)
        assert line.startswith(f"{name}: ")
        assert f"-> {method}, rank {shown}: " in line


def test_at_full_energy_nothing_changes(factorised: Factorised) -> None:
    edit = compress.plan_factorise(factorised.model, factorised.x, energy=1.0)
    assert edit.layers == []
    assert torch.equal(
        outputs(compress.apply(factorised.model, edit), factorised.x), outputs(factorised.model, factorised.x)
    )


# --- which layers, which ranks -------------------------------------------------------------------


def test_pointwise_grouped_and_narrow_convolutions_are_left() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3, padding_mode="reflect", padding=1), nn.Conv2d(64, 64, 3), nn.Flatten(),
        nn.Linear(1024, 10),
    )  # fmt: skip
    low_rank(model)
    edit = compress.plan_factorise(model, torch.zeros(1, 1, 10, 10), keep=["6"])
    assert [row[0] for row in edit.layers] == ["4"]


def test_what_saves_parameters_but_costs_time_is_left() -> None:
    # With stride 4 the vertical factor works at the full width: more multiply-accumulates, though fewer parameters.
    model = nn.Sequential(nn.Conv2d(32, 32, 3, stride=4, padding=1), nn.Flatten(), nn.Linear(32 * 4, 2))
    x = torch.zeros(1, 32, 8, 8)
    weight = torch.zeros(32, 32, 3, 3)
    weight += torch.einsum("rih,orw->oihw", torch.randn(40, 32, 3), torch.randn(32, 40, 3))
    model[0].weight.data = weight
    rank = 40
    assert rank * 32 * 3 * 2 < weight.numel()
    assert rank * 32 * 3 * (2 * 8) + rank * 32 * 3 * (2 * 2) > weight.numel() * 2 * 2
    assert compress.plan_factorise(model, x, energy=1 - 1e-9, keep=["2"]).layers == []
    model[0].stride = (1, 1)
    model[2] = nn.Linear(32 * 64, 2)
    assert [row[2] for row in compress.plan_factorise(model, x, energy=1 - 1e-9, keep=["2"]).layers] == [rank]


def test_measured_time_decides() -> None:
    model, x = made("resnet")
    low_rank(model)
    asked: list[tuple[nn.Module, nn.Module, Tensor]] = []

    def faster(layer: nn.Module, factors: nn.Module, given: Tensor) -> bool:
        asked.append((layer, factors, given))
        return len(asked) % 2 == 0

    alone = compress.plan_factorise(model, x, energy=0.99)
    half = compress.plan_factorise(model, x, energy=0.99, faster=faster)
    assert alone.layers[1::2] == half.layers
    for layer, factors, given in asked:
        with torch.no_grad():
            assert factors(given).shape == layer(given).shape == (1, *layer(given).shape[1:])


def test_a_factorised_layer_can_still_be_tapped_by_its_name() -> None:
    model, x = made("resnet")
    low_rank(model)
    edit = compress.plan_factorise(model, x, energy=0.99)
    name = edit.layers[-2][0]
    assert "conv" in name
    small = compress.apply(model, edit).eval()
    tapped = Taps(small, [name])(small, x).features[name]
    reference = Taps(model.eval(), [name])(model, x).features[name]
    assert tapped.shape == reference.shape


def test_torchs_transformer_runs_in_both_modes_with_factors_inside() -> None:
    model, x = made("encoder")
    low_rank(model)
    edit = compress.plan_factorise(model, x, energy=0.999)
    assert {"encoder.layers.0.linear1", "encoder.layers.1.linear2"} <= {row[0] for row in edit.layers}
    assert not any("out_proj" in row[0] for row in edit.layers)
    small = compress.replay(NETWORKS["encoder"][0](), [edit])
    small.load_state_dict(compress.apply(model, edit).state_dict())
    for module in small.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    with torch.no_grad():  # without gradients torch would take its fused path
        torch.testing.assert_close(small.eval()(x), small.train()(x), rtol=0, atol=1e-5)


def test_evbmf_leaves_noise_alone_and_finds_what_stands_out() -> None:
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(planted(40, 60, 4, 1.0, 0)) * 0.01)
        model[2].weight.copy_(torch.tensor(planted(64, 40, 7, 1.0, 1)) * 3)
    edit = compress.plan_factorise(model, torch.zeros(1, 60), ranks="evbmf", keep=["4"])
    assert [row[:3] for row in edit.layers] == [("0", "svd", 4), ("2", "svd", 7)]


def sensitivities(model: nn.Module, x: Tensor):
    """A score: how little the outputs differ from what they were."""
    reference = outputs(model, x)
    return lambda changed: -float((outputs(changed, x) - reference).norm() / reference.norm())


def test_a_budget_is_reached_with_the_least_sensitive_layers_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)).eval()
    low_rank(model)
    with torch.no_grad():  # the second layer is of full rank: cutting it costs a lot
        model[1].weight.copy_(torch.linalg.qr(torch.randn(64, 64))[0])
    x = torch.randn(32, 64)
    given = {"ranks": "sensitivity", "score": sensitivities(model, x)}
    loose = compress.plan_factorise(model, x, budget=0.8, **given)
    assert {row[0] for row in loose.layers} <= {"0", "2", "3"}
    tight = compress.plan_factorise(model, x, budget=0.45, **given)
    small = compress.apply(model, tight)
    # Linear layers do a multiply-accumulate a weight.
    work = [sum(p.numel() for p in m.parameters() if p.ndim == 2) for m in (small, model)]
    assert work[0] <= 0.45 * work[1]
    assert "1" not in {row[0] for row in tight.layers}
    with pytest.raises(UserError, match=r"0\.01 of the cost cannot be reached; 0\.\d+ can"):
        compress.plan_factorise(model, x, budget=0.01, **given)


def test_a_drop_is_not_exceeded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 40)).eval()
    x = torch.randn(32, 48)
    score = sensitivities(model, x)
    sizes = []
    for drop in (0.0, 0.1, 0.4):
        edit = compress.plan_factorise(model, x, ranks="sensitivity", score=score, drop=drop)
        small = compress.apply(model, edit)
        assert score(small) >= -drop
        sizes.append(parameters(small))
    assert sizes[0] == parameters(model) > sizes[2]
    assert sizes == sorted(sizes, reverse=True)


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "spacial"}, "did you mean 'spatial'"),
        ({"ranks": "energie"}, "did you mean 'energy'"),
        ({"energy": 0}, "`energy` is above 0"),
        ({"ranks": "sensitivity"}, "need `score`"),
        ({"score": len}, "need `score`"),
        ({"ranks": "sensitivity", "score": len, "drop": -1}, "`drop` is at least 0"),
        ({"ranks": "sensitivity", "score": len, "budget": 1.5}, "between 0 and 1"),
        ({"keep": ["11.weight"]}, "no module '11.weight' to keep"),
    ],
)
def test_what_is_wrong_is_said(options: dict, said: str) -> None:
    model, x = made("mlp")
    with pytest.raises(UserError, match=said):
        compress.plan_factorise(model, x, **options)


def test_an_edit_of_another_network_is_refused() -> None:
    model, x = made("mlp")
    low_rank(model)
    edit = compress.plan_factorise(model, x)
    assert edit.layers
    with pytest.raises(UserError, match="the edit does not fit"):
        compress.apply(made("cnn")[0], edit)
    with pytest.raises(UserError, match="'0' is Sequential where"):
        compress.apply(compress.apply(model, edit), edit)
