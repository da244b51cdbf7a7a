"""The page: what it says, what it must not do, and how it stands in a real browser."""

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import need
from report_samples import (
    CLOTHES,
    alone,
    born_again,
    chain,
    classification,
    classified,
    compared,
    ensemble,
    model,
    regression,
    typed,
)
from report_samples_compressed import no_files, smaller_regression, within_budget

from limbeck.core.result import Comparison
from limbeck.core.words import NOTHING, duration
from limbeck.evaluate import compare, interval
from limbeck.report import figures, words, write_report

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


# --- in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.metric("accuracy", 0.91234), "91.23 %"),
        (words.metric("rmse", 55.1), "55.10"),
        (words.metric("nll", None), NOTHING),
        (words.metric("nll", math.nan), NOTHING),
        (words.number(2.41e-6, 2), "2.4e-06"),
        (words.number(0), "0.000"),
        (words.number(123456.7), "123,457"),
        (words.spread("accuracy", [0.90, 0.91]), "\u00b1 0.50"),
        (words.spread("rmse", None), ""),
        (words.count(20490), "20,490"),
        (words.count(1_210_000), "1.21 M"),
        (words.count(143_000_000), "143 M"),
        (words.size(161_700), "161.7 kB"),
        (words.size(999), "999 B"),
        (words.milliseconds(0.0633), "0.063 ms"),
        (words.milliseconds(12.345), "12.35 ms"),
        (duration(12.34), "12.3 s"),
        (duration(130.1), "2 min 10 s"),
        (duration(7260), "2 h 01 min"),
        (words.date("2026-11-21T10:00:00+00:00"), "21 November 2026, 10:00 UTC"),
        (words.date("yesterday"), "yesterday"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.settings({"hidden": [64, 64], "flip": 0.0, "bias": True, "note": None}), "hidden 64, 64, bias"),
    ],
)
def test_numbers_and_settings_as_a_reader_wants_them(shown, expected):
    assert shown == expected


def test_the_story_says_what_the_recipe_says():
    told = {topic: " ".join(sentences) for topic, sentences in words.story(typed(classification()))}
    assert list(told) == ["Data", "Teacher", "Student", "Objective", "Augmentation", "Chosen", "Export"]
    assert "54,000 rows to learn from, 6,000 to choose by, 1,000 to report on" in told["Data"]
    assert told["Teacher"].startswith(
        "conv-leaky (channels 256, 512) with 1.21 M parameters, trained here for 5 epochs"
    )
    assert "from the same initial weights" in told["Student"]
    assert "hard 0.1 + kd 0.9 (temperature 10)" in told["Objective"]
    assert told["Augmentation"].startswith("shift 2.")


def test_the_story_says_which_networks_are_of_keras():
    result = classification()
    result["recipe"] |= {"framework": "keras"}
    result["recipe"]["student"] |= {"model": "keras/VGG16"}
    told = {topic: " ".join(sentences) for topic, sentences in words.story(typed(result))}
    assert told["Teacher"].startswith("conv-leaky in Keras (channels 256, 512) with")
    assert told["Student"].startswith("keras/VGG16 (")


def test_a_teacher_that_was_brought_along_was_not_trained_here():
    result = classification()
    result["recipe"]["teachers"][0] |= {"train": None, "weights": "big.safetensors"}
    told = dict(words.story(typed(result)))
    assert told["Teacher"][0].endswith("brought along from big.safetensors, not trained here.")


# --- the figures -----------------------------------------------------------------------------------


def test_curves_are_means_over_seeds_with_a_band_from_worst_to_best():
    seeds = {f"student-seed{s}": [{"epoch": 1, "val_accuracy": v}] for s, v in enumerate((0.5, 0.7, 0.9))}
    seeds["student-seed0"].append({"epoch": 2, "val_accuracy": 0.8})
    seeds["student-seed1"].append({"epoch": 2, "val_accuracy": None})
    drawn = figures.curves(typed({"curves": seeds, "recipe": {}}), "val_accuracy")
    band, line = drawn["data"]
    assert (line["x"], line["y"]) == ([1, 2], pytest.approx([70, 80]))
    assert (band["x"], band["y"]) == ([1, 2, 2, 1], pytest.approx([90, 80, 80, 50]))
    assert line["customdata"] == [3, 1]
    assert drawn["layout"]["xaxis"]["dtick"] == 1  # no ticks between two epochs
    assert figures.curves(typed({"curves": seeds, "recipe": {}}), "val_rmse") is None


def test_gains_show_every_seed_their_mean_and_its_interval_beside_zero():
    found = compare([0.90, 0.91, 0.92], [0.92, 0.93, 0.945], metric="accuracy", higher_is_better=True)
    comparison = Comparison.model_validate(found)
    mean, seeds = figures.gains(comparison)["data"]
    assert seeds["x"] == pytest.approx([2.0, 2.0, 2.5])
    assert mean["x"] == pytest.approx([6.5 / 3])
    low, high = comparison.gain.ci95
    assert mean["error_x"]["array"] == pytest.approx([100 * high - 6.5 / 3])
    assert mean["error_x"]["arrayminus"] == pytest.approx([6.5 / 3 - 100 * low])
    left, right = figures.gains(comparison)["layout"]["xaxis"]["range"]
    assert left < 0 < 100 * high < right


def test_confusion_separates_what_is_right_from_mistakes():
    right, wrong = figures.confusion([[8, 2], [0, 0]], ["a", "b"])["data"]
    assert right["z"] == [[80, None], [None, 0]]
    assert wrong["z"] == [[None, 20], [None, None]]
    axis = figures.confusion([[8, 2], [0, 0]], ['<a> & "b"', "a"])["layout"]["xaxis"]
    assert axis["ticktext"] == ['&lt;a&gt; &amp; "b"', "a"]
    assert axis["tickangle"] == 0
    assert (
        figures.confusion([[1] * 4] * 4, ["a rather long name", "b", "c", "d"])["layout"]["xaxis"]["tickangle"] == -45
    )
    assert figures.confusion([[1] * 300] * 300, [str(i) for i in range(300)]) is None


# --- the page --------------------------------------------------------------------------------------


def page_of(result, path):
    write_report(typed(json.loads(json.dumps(result))), path)
    text = path.read_text(encoding="utf-8")
    return text, re.sub(r"<script>.*?</script>", "", text, flags=re.S)


def test_the_page_carries_the_numbers_of_the_result(tmp_path):
    result = classification()
    _, text = page_of(result, tmp_path / "report.html")
    assert result["comparison"]["words"] in text
    assert "The teacher helps" in text
    student = [m["metrics"]["nll"] for m in result["models"] if m["role"] == "student"]
    low, high = interval(student)
    assert (
        f"<td>{words.number(sum(student) / 5)} <small>\u00b1 {words.number((high - low) / 2, 2)}</small></td>" in text
    )
    assert text.count("seed 0</a>") == 2
    assert '<a href="./export/distilled-seed0.onnx">' in text
    assert "<td>100.00 % <small>\u2264 2.4e-06</small></td>" in text
    assert "MNIST was not found" in text
    assert "temperature: 10" in text


def test_missing_parts_leave_no_holes(tmp_path):
    _, text = page_of(alone(), tmp_path / "report.html")
    assert "A student without a teacher" in text
    assert 'id="gains"' not in text
    assert 'id="curves"' not in text
    _, text = page_of(regression(), tmp_path / "report.html")
    assert 'id="classes"' not in text
    assert "No evidence that the teacher helps" in text
    for name in ("weight", "waist"):
        assert f'<th scope="row">{name}</th>' in text
    empty = classification(seeds=1) | {"seconds": {}, "notes": [], "teachers": [], "curves": {}, "recipe_yaml": ""}
    empty["models"] = [*empty["models"][:2], model("half", "compressed", 0, {"accuracy": None}, None)]
    for row in empty["models"]:
        row["cost"] = dict.fromkeys(row["cost"])
    _, text = page_of(empty, tmp_path / "report.html")
    assert "one seed cannot show it" in text
    assert NOTHING in text


def test_several_teachers_and_what_they_say_together(tmp_path):
    result = classification(seeds=2)
    together = classified(CLOTHES, 0.95, 1000, 9)
    result["models"].insert(1, model("ensemble", "teacher", None, together, None, scale=2))
    _, text = page_of(result, tmp_path / "report.html")
    assert f"<dd>{words.metric('accuracy', together['accuracy'])}</dd>" in text


EVIL = "<script>alert(1)</script>"


def test_names_from_the_data_are_text_everywhere(tmp_path):
    result = classification((EVIL, "</script><b>bold</b>", '"quoted" & co'), seeds=2)
    result |= {"name": EVIL, "about": EVIL, "notes": [EVIL], "recipe_yaml": EVIL}
    result["models"][0]["name"] = result["models"][0]["file"] = EVIL
    result["curves"][EVIL] = result["curves"]["teacher"]
    text, outside = page_of(result, tmp_path / "report.html")
    assert EVIL not in text
    assert "<b>bold" not in text
    assert "&lt;script&gt;alert(1)" in outside
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1])
    assert plots["confusion"]["layout"]["xaxis"]["ticktext"][0] == "&lt;script&gt;alert(1)&lt;/scr\u2026"


def test_the_page_is_written_atomically_and_names_no_server(tmp_path):
    text, outside = page_of(classification(seeds=2), tmp_path / "run" / "report.html")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["report.html"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", outside)
    assert "default-src 'none'" in text
    assert 'lang="en"' in text


# --- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    need(CHROMIUM.exists() and find_spec("playwright") is not None, "Chromium and playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=[*QUIET, "--disable-sync", "--no-first-run"]
        )
        yield started
        started.close()


def opened(browser, path, width, scheme):
    """The page, loaded, and everything that went wrong meanwhile."""
    tab = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    tab.set_default_timeout(120_000)  # a busy machine takes long over the library of the plots
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_load_state("networkidle")
    return tab, wrong


COMPRESSED = {"gains", "pareto-size", "pareto-latency", "budget-plot", "metric-curves", "loss-curves", "confusion"}
CASES = [
    (classification, 1400, "light", {"gains", "metric-curves", "loss-curves", "confusion"}),
    (classification, 390, "dark", {"gains", "metric-curves", "loss-curves", "confusion"}),
    (regression, 390, "light", {"gains", "metric-curves", "loss-curves"}),
    (alone, 1400, "dark", {"confusion"}),
    (ensemble, 390, "light", {"gains", "members", "metric-curves", "loss-curves", "confusion"}),
    (within_budget, 1400, "light", COMPRESSED),
    (within_budget, 390, "dark", COMPRESSED),
    (no_files, 390, "light", COMPRESSED - {"budget-plot"}),
    (smaller_regression, 390, "light", {"gains", "pareto-size", "pareto-latency", "metric-curves", "loss-curves"}),
    (compared, 390, "light", {"gains", "intervals", "metric-curves", "loss-curves", "confusion"}),
    (chain, 1400, "dark", {"gains", "gains-0", "metric-curves", "loss-curves", "confusion"}),
    (
        born_again,
        390,
        "dark",
        {"gains", "gains-0", "gains-1", "generations", "metric-curves", "loss-curves", "confusion"},
    ),
]


@pytest.mark.parametrize(("sample", "width", "scheme", "plots"), CASES)
def test_the_page_stands_in_a_browser(browser, tmp_path, sample, width, scheme, plots):
    result, path = sample(), tmp_path / "report.html"
    write_report(typed(result), path)
    tab, wrong = opened(browser, path, width, scheme)
    assert tab.locator("#verdict").is_visible()
    if result["comparison"]:
        assert tab.get_by_text(result["comparison"]["words"]).first.is_visible()
    assert {p.get_attribute("id") for p in tab.locator(".plot").all()} == plots
    for name in plots:
        assert tab.locator(f"#{name} svg.main-svg").count() >= 1
        assert tab.locator(f"#{name}").bounding_box()["width"] > 200
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []
    tab.context.close()


def test_seeds_open_and_plots_follow_the_colour_scheme(browser, tmp_path):
    path = tmp_path / "report.html"
    write_report(typed(classification(seeds=2)), path)
    tab, wrong = opened(browser, path, 1400, "light")
    seeds = tab.locator("tbody.seeds.student")
    assert not seeds.is_visible()
    tab.locator("tbody.summary.student summary").click()
    assert seeds.is_visible()
    colour = "getComputedStyle(document.querySelector('#confusion .ytick text')).fill"
    before = tab.evaluate(colour)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"{colour} !== '{before}'")
    assert wrong == []
    tab.context.close()


def test_names_from_the_data_run_nothing_in_a_browser(browser, tmp_path):
    result, path = (
        classification((EVIL, "<img src=x onerror=alert(2)>", "<b>bold</b>"), seeds=2),
        tmp_path / "report.html",
    )
    write_report(typed(result | {"name": EVIL}), path)
    tab, wrong = opened(browser, path, 1400, "light")
    assert "<b>bold</b>" in tab.locator("#confusion").text_content()
    assert tab.locator("h1").text_content() == EVIL
    assert wrong == []
    tab.context.close()
