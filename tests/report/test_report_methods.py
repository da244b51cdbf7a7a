"""What the page and the terminal say of several sets of losses, each against the same students alone."""

import json
import re
import statistics
from pathlib import Path

import pytest
from report_samples import classification, compared, ensemble, regression, typed
from scipy import stats

from limbeck.core.words import NOTHING
from limbeck.report import figures, methods, roles, scores, words, write_report
from limbeck.report.terminal import show


def page_of(result, path):
    write_report(typed(json.loads(json.dumps(result))), path)
    text = path.read_text(encoding="utf-8")
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1])
    return re.sub(r"<script.*?</script>", "", text, flags=re.S), plots


def accuracies(result, name):
    return [m["metrics"]["accuracy"] for m in result["models"] if re.fullmatch(rf"{name}-seed\d+", m["name"])]


def survivors(result):
    """By the steps of Holm 1979 and SciPy's test: names whose verdict holds among all."""
    alone = accuracies(result, "student")
    ps = {m["name"]: stats.ttest_rel(accuracies(result, m["name"]), alone).pvalue for m in result["methods"]}
    found = set()
    for left, name in zip(range(len(ps), 0, -1), sorted(ps, key=ps.get), strict=True):
        if ps[name] > 0.05 / left:
            break
        found.add(name)
    return found


# --- losses in words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"hard": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}}, "hard 0.1 + kd 0.9 (temperature 4)"),
        ({"fitnet": {"weight": "auto", "student": "auto", "teacher": "auto"}}, "fitnet weight auto"),
        ({"kd": {"weight": {"start": 0.0, "end": 0.9, "epochs": 2.0, "shape": "linear"}}}, "kd 0 to 0.9 over 2 epochs"),
        (
            {"kd": {"weight": 1, "temperature": {"start": 8, "end": 2, "epochs": None, "shape": "cosine"}}},
            "kd 1 (temperature 8 to 2 as a cosine)",
        ),
        ({"soft": {"loss": "lskd", "weight": 9.0, "wraps": "dkd", "alpha": 0.0}}, "soft 9 (lskd, wraps dkd, alpha 0)"),
        ({"at": {"weight": 1e3, "student": ["a", "b"], "teacher": ["c", "d"]}}, "at 1000 (a from c, b from d)"),
        ({"mgd": {"weight": 7e-5, "student": "a", "teacher": "prediction"}}, "mgd 7e-05 (a from prediction)"),
        ({"mlld": {"weight": 0.9, "temperatures": [2.0, 4.0]}}, "mlld 0.9 (temperatures 2, 4)"),
    ],
)
def test_a_set_of_losses_in_words(losses, expected):
    assert words.formula(losses) == expected


def test_the_story_tells_weights_that_are_no_numbers():
    result = compared()
    result["recipe"]["losses"]["fitnet"] = {"loss": "fitnet", "weight": "auto", "student": "auto", "teacher": "auto"}
    told = dict(words.story(typed(result)))
    assert "hard 0.1 + kd 0.9 (temperature 8 to 2 as a cosine) + fitnet weight auto." in told["Objective"][0]
    assert "with the teacher, and so by 7 other sets of losses" in told["Student"][1]


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        (0.01234, "accuracy", "+1.23"),
        (-0.5, "accuracy", "-50.00"),
        (-1.6789, "rmse", "-1.68"),
        (None, "rmse", NOTHING),
    ],
)
def test_a_change_has_its_sign(value, metric, expected):
    assert words.change(metric, value) == expected


# --- the table -------------------------------------------------------------------------------------


def test_methods_stand_by_their_gain_with_the_numbers_of_the_result():
    result = compared()
    alone, found = accuracies(result, "student"), methods.methods(typed(result))
    assert len(found) == 8
    gains = {
        m["name"]: statistics.fmean(accuracies(result, m["name"])) - statistics.fmean(alone) for m in result["methods"]
    }
    assert [m.name for m in found] == sorted(gains, key=gains.get, reverse=True)
    for method in found:
        values = accuracies(result, method.name)
        assert method.score == f"{100 * statistics.fmean(values):.2f} %"
        each = [b - a for a, b in zip(alone, values, strict=True)]
        low, high = stats.t.interval(0.95, 4, loc=statistics.fmean(each), scale=stats.sem(each))
        assert method.gain == f"{100 * gains[method.name]:+.2f}"
        assert method.reach == f"{100 * low:+.2f} to {100 * high:+.2f}"
        half = stats.t.ppf(0.975, 4) * stats.sem(values)
        assert method.spread == f"± {100 * half:.2f}"


def test_verdicts_hold_as_far_as_holm_s_steps_go():
    for result in (compared(), compared(24, 3)):
        found = methods.methods(typed(result))
        assert {m.name for m in found if m.holds} == survivors(result)
        assert {m.name for m in found if m.verdict != "no evidence"} > survivors(result)  # both cases occur


def test_seconds_are_told_in_those_of_the_student_alone():
    found = {m.name: m.time for m in methods.methods(typed(compared()))}
    assert found["fitnet"] == f"2.5{words.TIMES}"  # 5 seconds an epoch, and 2
    assert found["at"] == f"1.0{words.TIMES}"
    bare = compared() | {"curves": {}}
    assert {m.time for m in methods.methods(typed(bare))} == {NOTHING}


def test_weights_that_were_found_are_told_from_the_least_to_the_most():
    found = {m.name: m.found for m in methods.methods(typed(compared()))}
    assert found["fitnet"] == "fitnet 0.20 to 0.60"
    assert {text for name, text in found.items() if name != "fitnet"} == {""}
    assert {m.name: m.found for m in methods.methods(typed(compared(seeds=1)))}["fitnet"] == "fitnet 0.20"


def test_what_so_many_comparisons_mean_is_said():
    result = compared()
    *_, chance, correction = methods.said(methods.methods(typed(result)))
    assert "one in twenty comes out as helping or hurting by chance: 0.4 of 8 are to be expected" in chance
    assert correction.startswith("After Holm's correction for 8 comparisons: ")
    helped, hurt, dropped = correction.removesuffix(".").split("; ")
    held = survivors(result)
    assert {name for name in held if name in helped} == held - {"srrl", "mlld"}
    assert hurt == "srrl and mlld hurt"
    assert dropped == "the verdict on at does not hold"
    for method in result["methods"]:
        method["gain"]["values"] = [0.3, -0.3, 0.2, -0.2, 0.01]
    assert methods.said(methods.methods(typed(result)))[-1] == (
        "None of the 6 verdicts that differ from no evidence holds after Holm's correction for 8 comparisons."
    )
    for method in result["methods"]:
        method["verdict"] = "no evidence"
    assert methods.said(methods.methods(typed(result)))[-1] == "There is no evidence that any of them helps or hurts."
    assert "One seed cannot show" in methods.said(methods.methods(typed(compared(seeds=1))))[-1]


# --- the figure ------------------------------------------------------------------------------------


def test_intervals_stand_beside_zero_and_a_collapse_does_not_hide_the_rest():
    found = methods.methods(typed(compared()))
    figure = methods.intervals(found, "accuracy")
    seeds, *points = figure["data"]
    assert seeds["x"] == pytest.approx([100 * v for m in found for v in m.values])
    left, right = figure["layout"]["xaxis"]["range"]
    assert left < 0 < right
    for y, (method, point) in enumerate(zip(found, points, strict=True)):
        assert point["y"] == [y]
        if method.name == "mlld":
            assert left <= point["x"][0] < left + 1
            assert (point["marker"]["symbol"], point["text"]) == ("triangle-left", [method.gain])
            continue
        assert point["x"] == pytest.approx([100 * method.mean])
        assert point["error_x"]["array"] == pytest.approx([100 * (method.ci95[1] - method.mean)])
        assert point["error_x"]["arrayminus"] == pytest.approx([100 * (method.mean - method.ci95[0])])
        assert left < 100 * method.ci95[0] < 100 * method.ci95[1] < right
    symbols = {m.name: p["marker"]["symbol"] for m, p in zip(found, points, strict=True)}
    assert (symbols["fitnet"], symbols["at"], symbols["label-smoothing"]) == ("diamond", "diamond-open", "circle")
    assert figure["layout"]["yaxis"]["ticktext"] == [m.name for m in found]
    assert methods.intervals([], "accuracy") is None


# --- the page --------------------------------------------------------------------------------------


def test_the_page_shows_the_methods_around_the_student_alone(tmp_path):
    result = compared()
    text, plots = page_of(result, tmp_path / "report.html")
    section = text[text.index('id="methods"') : text.index('id="models"')]
    assert "intervals" in plots
    rows = re.findall(r'<th scope="row">([\w -]+)', section)
    named = [m.name for m in methods.methods(typed(result))]
    above = [m.name for m in methods.methods(typed(result)) if m.mean >= 0]
    assert [row.strip() for row in rows] == [*above, "student alone", *named[len(above) :]]
    assert "hard 1 + fitnet weight auto; found: fitnet 0.20 to 0.60" in section
    assert section.count("not among 8") == 1
    for sentence in methods.said(methods.methods(typed(result))):
        assert sentence.replace("'", "&#39;") in section


def test_compared_students_are_folded_unless_one_is_chosen(tmp_path):
    result = compared(24, 3)
    text, _ = page_of(result, tmp_path / "report.html")
    main, folded = text.split('<details class="card program folded">')
    assert "24 sets of losses, 72 students" in folded
    assert 'id="models"' in main
    assert "./at-seed0/best.safetensors" not in main
    assert folded.count("/best.safetensors") >= 72
    result["chosen"]["name"] = "at-seed1"
    text, _ = page_of(result, tmp_path / "report.html")
    main, folded = text.split('<details class="card program folded">')
    assert "./at-seed1/best.safetensors" in main
    assert "23 sets of losses, 69 students" in folded


def test_curves_and_members_leave_the_compared_out():
    result = compared()
    lines = [line["name"] for line in figures.curves(typed(result), "val_accuracy")["data"] if line.get("name")]
    assert lines == ["teacher", "student alone", "student + teacher"]
    together = ensemble()
    names = scores.members(typed(together), "accuracy")["layout"]["yaxis"]["ticktext"]
    together["models"] += [m for m in result["models"] if m["role"] == "compared"]
    assert scores.members(typed(together), "accuracy")["layout"]["yaxis"]["ticktext"] == names
    assert [r.title for r in roles.rows(typed(result)) if r.role == "compared"] == list(result["recipe"]["compare"])


@pytest.mark.parametrize("empty", [{}, {"methods": []}])
def test_a_run_without_compare_shows_nothing_of_it(tmp_path, capsys, empty):
    result = classification(seeds=2) | empty
    text, plots = page_of(result, tmp_path / "report.html")
    assert 'id="methods"' not in text
    assert "Compared students" not in text
    assert "intervals" not in plots
    show(typed(result), Path("runs/x"))
    assert "sets of losses" not in capsys.readouterr().out


def test_names_of_methods_and_taps_are_text(tmp_path):
    evil = "<script>alert(1)</script>"
    result = compared()
    result["methods"][1] |= {"name": evil, "weights": [{evil: 1.0}]}
    result["methods"][1]["losses"][evil] = {"weight": 1.0, "student": evil, "teacher": evil}
    path = tmp_path / "report.html"
    write_report(typed(result), path)
    assert evil not in path.read_text(encoding="utf-8")


def test_networks_that_say_how_sure_they_are_have_a_column_for_it(tmp_path):
    result = regression()
    for row in result["models"]:
        row["metrics"] |= {"nll": 1.25, "coverage95": 0.934}
    text, _ = page_of(result, tmp_path / "report.html")
    assert ">Coverage</th>" in text
    assert "93.40 %" in text


# --- the terminal ----------------------------------------------------------------------------------


def test_the_terminal_has_a_row_for_each_method_and_cuts_no_number(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    result = compared()
    show(typed(result), Path("runs/x"))
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    flat = " ".join(shown.split())
    for m in methods.methods(typed(result)):
        star = "*" if m.holds else ""
        level = f"{m.score.removesuffix(' %')} {m.spread}"
        assert f"{m.name} {level} {m.gain} {m.reach} {m.verdict}{star} {m.time}" in flat
        assert f"{m.name}: {m.losses}" in flat
    assert "found: fitnet 0.20 to 0.60" in flat
    assert " ".join(methods.said(methods.methods(typed(result)))) in flat
    assert "A star marks these." in flat
    assert "at, x5" not in shown  # the table of models leaves them to this one
