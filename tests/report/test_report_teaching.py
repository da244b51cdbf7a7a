"""What the page and the terminal say of ensembles, chains, generations, peers and stored outputs."""

import json
import math
import re
import statistics
from pathlib import Path

import pytest
from report_samples import (
    born_again,
    chain,
    classification,
    ensemble,
    opening,
    peers,
    regression_ensemble,
    typed,
)

from limbeck.report import figures, roles, scores, words, write_report
from limbeck.report.stored import stored
from limbeck.report.terminal import show

T_OF_FOUR = 2.7764451052  # 97.5 % point of Student's t with 4 degrees of freedom, for five seeds


def half(values):
    """Half of the 95 % interval of the mean of five values."""
    assert len(values) == 5
    return T_OF_FOUR * statistics.stdev(values) / math.sqrt(5)


def accuracies(result, role, ending=""):
    return [m["metrics"]["accuracy"] for m in result["models"] if m["role"] == role and m["name"].endswith(ending)]


def page_of(result, path):
    write_report(typed(json.loads(json.dumps(result))), path)
    text = path.read_text(encoding="utf-8")
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1])
    return re.sub(r"<script.*?</script>", "", text, flags=re.S), plots


# --- who is who ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            ensemble,
            ["wide", "deep", "narrow-but-with-a-long-name", "ensemble", "student alone x5", "student + teacher x5"],
        ),
        (chain, ["teacher", "assistant", "student alone x5", "student + teacher x5", "end of the chain x5"]),
        (born_again, ["student alone x5", "generation 1 x5", "generation 2 x5", "generation 3 x5"]),
        (peers, ["student alone x5", "student + peers x5", "peer 1 x5", "peer 2 x5"]),
    ],
)
def test_rows_stand_in_order_and_join_seeds(sample, expected):
    found = roles.rows(typed(sample()))
    assert [f"{r.short} x{len(r.models)}" if len(r.models) > 1 else r.short for r in found] == expected


def test_a_student_of_several_generations_is_still_the_teachers():
    result = chain()
    result["recipe"]["student"]["generations"] = 2
    assert roles.lesson(typed(result)) == roles.Lesson("the teacher", "Generation 2", "generation 2", "Generation 2")
    result["recipe"]["student"]["generations"] = 1  # which is what a student is anyway
    assert roles.lesson(typed(result)).short == "end of the chain"


@pytest.mark.parametrize(
    ("sample", "question"),
    [
        (ensemble, "Did the teacher help?"),
        (born_again, "Did learning from itself help?"),
        (peers, "Did learning together help?"),
    ],
)
def test_the_verdict_is_on_what_made_the_difference(tmp_path, sample, question):
    text, _ = page_of(sample(), tmp_path / "report.html")
    assert question in text


@pytest.mark.parametrize("verdict", ["helps", "no evidence", "hurts"])
def test_headlines_say_no_more_than_the_verdict(tmp_path, verdict):
    result = peers()
    result["comparison"] |= {"verdict": verdict}
    text, _ = page_of(result, tmp_path / "report.html")
    expected = {
        "helps": "Learning together helps",
        "no evidence": "No evidence that learning together helps",
        "hurts": "Learning together hurts",
    }
    assert f'<h2 id="verdict">{expected[verdict]}</h2>' in text


def test_curves_tell_every_network_apart():
    drawn = figures.curves(typed(born_again()), "val_accuracy")["data"]
    lines = [line for line in drawn if line.get("name")]
    assert [line["name"] for line in lines] == ["student alone", "generation 1", "generation 2", "generation 3"]
    assert all(line["customdata"][0] == 5 for line in lines)
    looks = {(line["line"]["color"], line["line"]["dash"]) for line in lines}
    assert len(looks) == 4
    names = [line["name"] for line in figures.curves(typed(chain()), "val_accuracy")["data"] if line.get("name")]
    assert names == ["teacher", "assistant", "student alone", "student + teacher", "end of the chain"]


# --- further comparisons ---------------------------------------------------------------------------


def test_further_comparisons_show_their_words_and_share_an_axis(tmp_path):
    result = born_again()
    text, plots = page_of(result, tmp_path / "report.html")
    for other in result["comparisons"]:
        assert other["title"] in text
        assert other["words"] in text
        assert re.search(r"95 % interval [+-]", other["words"])
    first, second = plots["gains-0"], plots["gains-1"]
    assert first["layout"]["xaxis"]["range"] == second["layout"]["xaxis"]["range"]
    left, right = first["layout"]["xaxis"]["range"]
    for plot, other in ((first, result["comparisons"][0]), (second, result["comparisons"][1])):
        assert plot["data"][0]["x"] == pytest.approx([100 * other["gain"]["mean"]])
        low, high = other["gain"]["ci95"]
        assert left < 100 * low < 100 * high < right
    assert "of twenty comparisons without any effect, about one looks like one" in text


def test_the_badge_is_that_of_the_comparison(tmp_path):
    result = chain()
    for verdict, badge in (("helps", "a gain"), ("no evidence", "no evidence"), ("hurts", "a loss")):
        result["comparisons"][0]["verdict"] = verdict
        text, _ = page_of(result, tmp_path / "report.html")
        assert f'itself <span class="badge">{badge}</span>' in text


def test_generations_are_means_with_intervals_behind_the_student_alone():
    result = born_again()
    seeds, means = scores.generations(typed(result), "accuracy")["data"]
    levels = [
        accuracies(result, "student"),
        accuracies(result, "generation", "gen1"),
        accuracies(result, "generation", "gen2"),
        accuracies(result, "distilled"),
    ]
    assert seeds["y"] == pytest.approx([100 * v for values in levels for v in values])
    assert means["y"] == pytest.approx([100 * statistics.fmean(values) for values in levels])
    assert means["error_y"]["array"] == pytest.approx([100 * half(values) for values in levels])
    assert means["error_y"]["arrayminus"] == pytest.approx([100 * half(values) for values in levels])
    assert scores.generations(typed(result), "accuracy")["layout"]["xaxis"]["ticktext"] == ["alone", "1", "2", "3"]
    assert scores.generations(typed(chain()), "accuracy") is None


# --- ensembles -------------------------------------------------------------------------------------


def test_members_ensemble_and_students_stand_side_by_side():
    result = ensemble()
    figure = scores.members(typed(result), "accuracy")
    single = [100 * v for v in accuracies(result, "teacher")]
    alone, taught = accuracies(result, "student"), accuracies(result, "distilled")
    assert [p["x"][0] for p in figure["data"]] == pytest.approx(
        [*single, 100 * statistics.fmean(alone), 100 * statistics.fmean(taught)]
    )
    assert [p["error_x"]["visible"] for p in figure["data"]] == [False] * 4 + [True] * 2
    assert figure["data"][4]["error_x"]["array"] == pytest.approx([100 * half(alone)])
    assert figure["data"][5]["error_x"]["arrayminus"] == pytest.approx([100 * half(taught)])
    assert figure["layout"]["yaxis"]["ticktext"] == [
        "wide · 0.33", "deep · 0.34", "narrow-but-with-a-l… · 0.35", "ensemble", "student alone", "student + teacher",
    ]  # fmt: skip
    left, right = figure["layout"]["xaxis"]["range"]
    assert all(left < x - width and x + width < right for p in figure["data"] for x, width in [reach(p)])
    assert scores.members(typed(classification()), "accuracy") is None


def reach(point):
    return point["x"][0], point["error_x"]["array"][0]


def test_disagreement_is_said_and_from_three_members_on_shown_for_every_pair(tmp_path):
    found = scores.apart(typed(ensemble()))
    assert found["said"] == [
        "All 3 members choose the same class on 88.30 % of the test rows; two of them differ on 7.00 % on average.",
        "At least one is right on 98.10 %: no way of choosing among them can do better, and on the rest all of them "
        "are wrong.",
        "Their probabilities diverge by 0.031 nats (Jensen-Shannon).",
    ]
    assert [name for name, _ in found["rows"]] == ["wide", "deep", "narrow-but-with-a-long-name"]
    assert [value for value, _ in found["rows"][0][1]] == ["0.00 %", "5.50 %", "7.00 %"]
    assert [share for _, share in found["rows"][2][1]] == pytest.approx([0.07 / 0.085, 1, 0])
    text, _ = page_of(ensemble(), tmp_path / "report.html")
    assert text.count('<td style="--share: ') == 6
    two = scores.apart(typed(ensemble(members=2)))
    assert two["rows"] == []
    assert two["said"][0].startswith("Both choose the same class on")


def test_measured_values_differ_by_an_error():
    assert scores.apart(typed(regression_ensemble()))["said"] == [
        "Two members differ by 9.250 (RMSE), on average over the pairs.",
        "The standard deviation over the members is 3.100 for a row, on average.",
    ]
    figure = scores.members(typed(regression_ensemble()), "rmse")
    assert [p["x"][0] for p in figure["data"]][:3] == [53.2, 52.0, 51.5]
    assert figure["layout"]["xaxis"]["title"]["text"] == "RMSE on test, lower is better"


def test_an_ensemble_whose_members_were_not_compared_leaves_no_hole(tmp_path):
    result = ensemble()
    result["ensemble"] |= {"disagreement": None, "weights": None}
    text, plots = page_of(result, tmp_path / "report.html")
    assert "members" in plots
    assert "disagree" not in text
    assert "Accuracy of the ensemble" in text


# --- stored outputs --------------------------------------------------------------------------------


def test_sizes_count_once_and_answers_at_every_opening():
    found = stored(typed(ensemble()))
    assert found["said"] == [
        "Teachers computed 162,000 outputs in 37.5 s, stored in 3.2 MB.",
        "648,000 times an output was stored already and was not computed again.",
    ]
    assert found["rows"][1] == ("deep", "54,000 rows, 16-bit floats", "1.1 MB", "54,000", "216,000", "12.5 s")


def test_teachers_that_differ_in_their_seed_share_a_row():
    rows = stored(typed(born_again()))["rows"]
    assert [row[0] for row in rows] == ["student, 5 seeds", "distilled-gen1, 5 seeds", "distilled-gen2, 5 seeds"]
    assert rows[0][2:] == ("5.4 MB", "270,000", "0", "10.0 s")


def test_nothing_asked_is_said_so():
    old = [opening("teacher", "t", asked=0, found=108000, views=2) | {"top_k": 64, "taps": ["layer4"]}]
    found = stored(typed({"cache": old}))
    assert found["said"] == [
        "All 108,000 outputs that students began with were stored already (2.2 MB): no teacher computed any."
    ]
    assert found["rows"][0][1] == "2 views of 54,000 rows, 16-bit floats, the 64 largest of a row, with layer4"
    fast = stored(typed({"cache": [opening("teacher", "t", asked=10, found=0, seconds=0.003), old[0]]}))
    assert "in less than 0.1 s" in fast["said"][0]
    assert stored(typed({"cache": []})) is None
    assert stored(typed({})) is None


# --- the whole page --------------------------------------------------------------------------------


def test_a_result_of_an_earlier_version_has_none_of_it(tmp_path):
    later = {"ensemble", "comparisons", "cache", "views"}
    result = {key: value for key, value in classification(seeds=2).items() if key not in later}
    text, plots = page_of(result, tmp_path / "report.html")
    assert set(plots) == {"gains", "metric-curves", "loss-curves", "confusion"}
    for name in ("comparisons", "ensemble", "stored"):
        assert f'id="{name}"' not in text


def test_the_story_names_whoever_taught():
    told = dict(words.story(typed(chain())))
    assert told["Assistant"][0].startswith("conv-leaky (channels 16, 32) with 242,000 parameters, trained here for")
    assert told["Assistant"][0].endswith("taught by the teacher.")
    assert "taught by the teacher itself, and by the assistant" in told["Student"][1]
    assert dict(words.story(typed(ensemble())))["Together"][0].startswith("The ensemble is the mean of 3 teachers")
    assert (
        "3 times. Each generation begins with new initial weights."
        in dict(words.story(typed(born_again())))["Student"][1]
    )
    assert "in a group of 3 that learned together" in dict(words.story(typed(peers())))["Student"][1]
    joint = ensemble()
    joint["recipe"]["combine"] = {"name": "stacked", "joint": True, "train": joint["recipe"]["student"]["train"]}
    assert ", then trained together with the others for 30 epochs" in dict(words.story(typed(joint)))["Teachers"][0]


@pytest.mark.parametrize(
    ("views", "expected"),
    [(3, "Each row has 3 views, the same for every student."), (0, "whoever teaches was asked live, in every step")],
)
def test_the_story_tells_the_views(views, expected):
    result = classification() | {"views": views}
    assert expected in " ".join(dict(words.story(typed(result)))["Augmentation"])


def test_names_are_text_in_the_new_sections_too(tmp_path):
    evil = "<script>alert(1)</script>"
    result = ensemble()
    for row in result["models"]:
        row["name"] = evil if row["name"] == "deep" else row["name"]
    result["ensemble"]["disagreement"]["names"][1] = evil
    result["ensemble"]["words"] = result["comparison"]["words"] = evil
    result["comparisons"] = [result["comparison"] | {"title": evil}]
    result["cache"][0]["teacher"] = evil
    path = tmp_path / "report.html"
    write_report(typed(result), path)
    text = path.read_text(encoding="utf-8")
    assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


# --- the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [ensemble, chain, born_again, peers, regression_ensemble])
def test_the_terminal_lists_every_row_and_cuts_no_number(monkeypatch, capsys, sample):
    monkeypatch.setenv("COLUMNS", "80")
    result = sample()
    show(typed(result), Path("runs/x"))
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    for row in roles.rows(typed(result)):
        label = row.short if len(row.models) == 1 else f"{row.short}, x{len(row.models)}"
        label = "ONNX Runtime, float32" if row.role == "exported" else label
        line = next(line for line in shown.splitlines() if line.strip().startswith(label[:20]))
        assert "…" not in line[28:]
    flat = " ".join(shown.split())
    assert " ".join(result["comparison"]["words"].split()) in flat
    for other in result["comparisons"]:
        assert f"{other['title']}: {other['words']}" in flat
    assert ("Stored: " in flat) == bool(result["cache"])


def test_the_terminal_shows_means_over_seeds(capsys):
    result = chain()
    show(typed(result), Path("runs/x"))
    shown = capsys.readouterr().out
    for label, role in (("student + teacher, x5", "direct"), ("end of the chain, x5", "distilled")):
        line = next(line for line in shown.splitlines() if label in line)
        assert f"{100 * statistics.fmean(accuracies(result, role)):.2f} %" in line


def test_a_column_without_values_is_left_out(capsys):
    result = born_again()
    for row in result["models"]:
        row["metrics"].pop("agreement")
    show(typed(result), Path("runs/x"))
    assert "agreement" not in capsys.readouterr().out
