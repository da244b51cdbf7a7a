"""The front of score against cost, and the search within a budget, as the page shows them."""

import pytest
from report_samples import typed
from report_samples_compressed import SUFFIXES, WAYS, searched, smaller_regression, within_budget

from limbeck.core.result import BudgetSearch, BudgetTrial
from limbeck.report import budget, pareto, words


@pytest.fixture(scope="module")
def everything():
    return within_budget()


# --- the front -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sample", "metric"), [(within_budget, "accuracy"), (smaller_regression, "rmse")])
@pytest.mark.parametrize("key", ["size_bytes", "latency_ms"])
def test_nothing_beats_a_point_of_the_front_and_something_every_other(sample, metric, key):
    found = pareto.points(typed(sample()), metric)
    sign = 1 if metric == "accuracy" else -1
    best = pareto.front(found, key, metric)
    assert len(best) > 2

    def beaten(point):
        cost, score = getattr(point.cost, key), sign * point.score
        rivals = [(getattr(p.cost, key), sign * p.score) for p in found if getattr(p.cost, key)]
        return any(c <= cost and s >= score and (c < cost or s > score) for c, s in rivals)

    assert not any(beaten(p) for p in best)
    spots = {(getattr(p.cost, key), p.score) for p in best}
    assert all(beaten(p) or (getattr(p.cost, key), p.score) in spots for p in found if getattr(p.cost, key))
    assert [getattr(p.cost, key) for p in best] == sorted(getattr(p.cost, key) for p in best)


def test_every_file_and_the_networks_behind_them_are_points(everything):
    found = {p.name: p for p in pareto.points(typed(everything), "accuracy")}
    names = {m["name"] for m in everything["models"] if m["role"] == "exported"}
    assert found.keys() == names | {"teacher", "distilled-seed0", *(f"{name}-seed0" for name in WAYS)}
    assert {p.kind for p in found.values()} == {"teacher", "distilled", "compressed", *SUFFIXES}
    point = found["half-seed0.onnx-int8"]
    assert point.lines[:2] == ["half-seed0", "ONNX Runtime, int8"]
    told = " ".join(point.lines)
    for expected in ("-0.10 against its network", "32.6 kB, 28.6 % of the float file", "for 64 rows", "MB of memory"):
        assert expected in told


def test_the_figure_has_the_front_as_steps_and_pins_what_lies_far_below(everything):
    found = pareto.points(typed(everything), "accuracy")
    drawn = pareto.figure(found, "size_bytes", "accuracy")
    steps, *marks = drawn["data"]
    best = pareto.front(found, "size_bytes", "accuracy")
    assert steps["line"]["shape"] == "hv"
    assert steps["x"][1:-1] == pytest.approx([p.cost.size_bytes / 1000 for p in best])
    assert steps["y"][1:-1] == pytest.approx([100 * p.score for p in best])
    assert drawn["layout"]["xaxis"]["type"] == "log"
    assert sum(len(trace["x"]) for trace in marks) == len(found)
    low = drawn["layout"]["yaxis"]["range"][0]
    collapsed = next(p for p in found if p.name == "quarter-seed0.litert-w4")
    assert 100 * collapsed.score < low - 10
    litert = next(t for t in marks if f"↓ {words.metric('accuracy', collapsed.score)}" in "".join(t["text"]))
    place = next(i for i, said in enumerate(litert["text"]) if said)
    assert litert["x"][place] == pytest.approx(collapsed.cost.size_bytes / 1000)
    assert low < litert["y"][place] < min(100 * p.score for p in found if p is not collapsed)
    assert litert["marker"]["symbol"][place] == "triangle-down"
    assert litert["textposition"][place] == "middle right"  # it stands at the left end


def test_lower_errors_are_drawn_higher():
    found = pareto.points(typed(smaller_regression()), "rmse")
    bottom, top = pareto.figure(found, "size_bytes", "rmse")["layout"]["yaxis"]["range"]
    assert bottom > 56 > 53.2 > top
    assert pareto.figure(found[:1], "size_bytes", "rmse") is None


@pytest.mark.parametrize(
    ("heights", "expected"),
    [([90, 89, 88], (88, 90)), ([90, 89, 88, 87, 10], (84, 90)), ([90, 90, 90, 10], (10, 90)), ([5], (5, 5))],
)
def test_the_axis_reaches_from_the_best_as_far_down_as_most_go(heights, expected):
    assert pareto.window(heights) == expected


# --- the search within a budget --------------------------------------------------------------------


def test_trials_within_the_budget_come_first_and_failed_ones_last():
    found = searched()
    rows = budget.budget(typed({"budget": found}))["rows"]
    assert [row["within"] for row in rows] == ["within", *["outside"] * 6, "failed"]
    assert [row["number"] for row in rows if row["winner"]] == [1]
    assert rows[0]["way"] == "50 % pruned, int8"
    assert rows[0]["lost"] == "1.12"  # more than a point, but the rows do not show it
    assert rows[1]["way"] == "62.5 % pruned, factorised to 95 % of the energy, 4-bit weights"
    assert (rows[1]["chance"], rows[0]["chance"]) == ("< 0.01", "0.41")
    assert rows[-1]["reason"] == "the loss is not a number"
    assert budget.way(BudgetTrial.model_validate(found["trials"][0] | {"learned": True})) == "int8, trained quantized"
    assert budget.budget(typed({})) is None
    assert budget.budget(typed({"budget": None})) is None


def test_the_budget_is_told_with_its_units():
    assert budget.asked(BudgetSearch.model_validate(searched())).startswith(
        "Asked for: 40 kB, 0.020 ms for one row and 1 point lost at most, as a file for LiteRT. 8 trials were made "
        "from distilled-seed0, each recovered for 2 epochs."
    )
    error = searched() | {"metric": "rmse"}
    error["budget"] = error["budget"] | {"latency_ms": None, "accuracy_drop": 0.025, "runtime": "onnx"}
    assert "Asked for: 40 kB and 2.5 % more error at most, as a file for ONNX Runtime." in budget.asked(
        BudgetSearch.model_validate(error)
    )
    assert budget.budget(typed({"budget": error}))["lost"] == "Error, %"


def test_the_figure_of_the_search_marks_the_winner_the_front_and_the_limits():
    drawn = budget.figure(typed({"budget": searched()}))
    outside, within, ring = drawn["data"]
    assert within["x"] == [32.6]
    assert (ring["x"], ring["y"]) == ([32.6], [pytest.approx(-1.12)])
    assert outside["marker"]["symbol"] == ["diamond", "diamond", "diamond", "triangle-down", "square-open", "circle"]
    lines = [(s.get("x0"), s.get("y0")) for s in drawn["layout"]["shapes"]]
    assert lines == [(0, -1.0), (40.0, 0)]
    assert budget.figure(typed({})) is None
    nothing = budget.figure(typed({"budget": searched(winner=False)}))
    assert len(nothing["data"]) == 1
    assert budget.budget(typed({"budget": searched(winner=False)}))["tone"] == "bad"
