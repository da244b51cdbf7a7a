"""What the page and the terminal say of smaller students, of files, of the front and of a search within a budget."""

import json
import re
import statistics
from pathlib import Path

import pytest
from report_samples import classification, regression, typed
from report_samples_compressed import (
    FORMATS,
    WAYS,
    compressed,
    no_files,
    smaller_regression,
    within_budget,
)

from limbeck.evaluate import interval
from limbeck.report import figures, files, pareto, smaller, words, write_report
from limbeck.report.terminal import show

EVIL = "<script>alert(1)</script>"


def page_of(result, path):
    write_report(typed(json.loads(json.dumps(result))), path)
    text = path.read_text(encoding="utf-8")
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1])
    return re.sub(r"<script.*?</script>", "", text, flags=re.S), plots


def accuracies(result, stage):
    return [m["metrics"]["accuracy"] for m in result["models"] if re.fullmatch(rf"{stage}-seed\d+", m["name"])]


@pytest.fixture(scope="module")
def everything():
    return within_budget()


@pytest.fixture(scope="module")
def drawn(everything, tmp_path_factory):
    return page_of(everything, tmp_path_factory.mktemp("page") / "report.html")


# --- smaller students ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            {"prune": {"ratio": 0.5}, "recover": {"epochs": 2}},
            "50 % of the channels taken out by Taylor importance in each layer, recovered for 2 epochs",
        ),
        (
            {
                "prune": {"macs": 0.1, "steps": 3, "scope": "global", "importance": "magnitude"},
                "recover": {"epochs": 1},
            },
            "channels taken out until 10 % of the MACs are left in 3 rounds, by magnitude over all layers, recovered "
            "for 1 epoch after each",
        ),
        (
            {"prune": {"latency": 0.375, "importance": "random", "keep": ["conv1", "fc"]}},
            "channels taken out until 37.5 % of the time is left, at random in each layer but for conv1 and fc, "
            "batch norms measured anew",
        ),
        (
            {"sparsify": {"amount": 0.9}, "recover": {"epochs": 0}},
            "the smallest 90 % of weights set to zero, for which no CPU runtime is faster, batch norms measured anew",
        ),
        (
            {"factorise": {"method": "tucker", "ranks": "evbmf"}, "recover": {"epochs": 1}},
            "layers factorised (Tucker-2, ranks by EVBMF), recovered for 1 epoch",
        ),
        (
            {"factorise": {"ranks": "sensitivity", "drop": 0.02}, "recover": {"epochs": 1}},
            "layers factorised (spatial SVD, ranks by what each layer costs, 2 % at most before recovery), recovered "
            "for 1 epoch",
        ),
        (
            {"quantize": {"weights": 4}, "recover": {"epochs": 3}},
            "trained quantized, 4-bit weights and 8-bit activations, 3 epochs",
        ),
    ],
)
def test_a_step_in_words(step, expected):
    assert smaller.steps([step]) == expected
    assert smaller.steps([step, step]) == f"{expected}; then {expected}"


def test_every_step_that_a_recipe_knows_is_told(everything):
    told = dict(words.story(typed(everything), smaller.told(typed(everything))))
    assert [line.partition(":")[0] for line in told["Made smaller"][:-1]] == list(WAYS)
    assert told["Made smaller"][-1].endswith("with the teacher and with labels alone.")
    assert "LiteRT (float32, fp16, int8, 8-bit weights, 4-bit weights), ONNX (float32, int8)" in told["Export"][0]
    assert list(told).index("Made smaller") == list(told).index("Export") - 1


def test_a_way_is_held_against_its_start_and_against_recovery_alone(everything):
    start, *rows = smaller.variants(typed(everything))
    assert start["score"] == words.metric("accuracy", statistics.fmean(accuracies(everything, "distilled")))
    half = next(row for row in rows if row["name"] == "half")
    own, before, alone = (accuracies(everything, stage) for stage in ("half", "distilled", "half-alone"))
    assert half["score"] == words.metric("accuracy", statistics.fmean(own))
    lost = [a - b for a, b in zip(own, before, strict=True)]
    assert half["lost"]["change"] == f"{100 * statistics.fmean(lost):+.2f}"
    assert half["lost"]["reach"] == " to ".join(f"{100 * end:+.2f}" for end in interval(lost))
    assert (half["lost"]["tone"], half["lost"]["verdict"]) == ("bad", "a loss")
    gained = [a - b for a, b in zip(own, alone, strict=True)]
    assert half["help"]["change"] == f"{100 * statistics.fmean(gained):+.2f}"
    assert (half["help"]["tone"], half["help"]["verdict"]) == ("good", "helps")
    assert half["help"]["alone"]["score"] == words.metric("accuracy", statistics.fmean(alone))
    assert half["costs"][0] == ("27,525", "26 %")  # 0.26 of 105,866 parameters
    assert half["costs"][2] == ("111.0 kB", "26.2 %")
    sparse = next(row for row in rows if row["name"] == "sparse")
    assert sparse["help"] is None
    assert sparse["costs"][0] == ("105,866", "100 %")


def test_one_seed_shows_no_verdict():
    rows = smaller.variants(typed(compressed(seeds=1, ways=("half",))))
    assert (rows[1]["lost"]["verdict"], rows[1]["help"]["verdict"]) == ("one seed", "one seed")
    assert rows[1]["lost"]["reach"] == ""


def test_a_larger_error_is_a_loss():
    row = smaller.variants(typed(smaller_regression()))[1]
    scores = [55.0, 55.4, 55.9]
    assert row["lost"]["change"] == f"-{0.02 * statistics.fmean(scores):.2f}"
    assert row["lost"]["verdict"] == "a loss"


def test_lines_that_are_the_same_for_several_seeds_stand_once(everything):
    parts = {entry["name"]: entry["parts"] for entry in smaller.lines(typed(everything))}
    [(names, lines)] = parts["half"]
    assert names == "half-seed0, half-seed1 and half-seed2"
    assert lines == "conv1: 16x1x3x3 -> 8x1x3x3: 144 -> 72 parameters (-50.0%)"
    assert [names for names, _ in parts["thin"]] == ["thin-seed0", "thin-seed1 and thin-seed2"]
    assert smaller.lines(typed(smaller_regression())) == []


def test_recoveries_are_not_among_the_curves_of_training(everything):
    drawn = figures.curves(typed(everything), "val_accuracy")
    shown = {trace.get("name") for trace in drawn["data"]} - {None}
    assert shown == {"teacher", "student alone", "student + teacher"}


def test_a_run_that_only_compresses_says_what_became_of_the_student(tmp_path):
    result = compressed(ways=("half",)) | {"comparison": None}
    page, _ = page_of(result, tmp_path / "report.html")
    assert "A student made smaller" in page
    own, before = (words.metric("accuracy", statistics.fmean(accuracies(result, s))) for s in ("half", "distilled"))
    assert f"half: {own} instead of {before}, 26 % of the parameters." in page


# --- files -----------------------------------------------------------------------------------------


def one(name, precision, size=100_000, latency_ms=None, batch_ms=None, **more):
    cost = {"params": 1, "macs": 1, "size_bytes": size, "latency_ms": latency_ms, "batch_ms": batch_ms}
    row = {"name": name, "role": "exported", "seed": 0, "format": "onnx", "file": name, "metrics": {"accuracy": 0.9}}
    return row | {"cost": cost, "parity": None, "precision": precision, "source": "distilled-seed0", **more}


def test_files_stand_with_their_network_the_most_precise_first(everything):
    found = files.made(typed(everything))
    assert [m.name for m in found] == ["distilled-seed0", *(f"{name}-seed0" for name in WAYS)]
    assert [f"{f.row.format}-{f.precision}".removesuffix("-float32") for f in found[0].files] == list(FORMATS)
    assert [f.precision for f in found[-1].files] == ["int8"] * 4  # it learned quantized
    assert (found[0].title, found[1].title) == ("Student with the teacher", "half")


def test_a_file_is_held_against_its_network_and_the_float_file_of_its_runtime(everything):
    rows = {m["name"]: m for m in everything["models"]}
    for network in files.made(typed(everything))[:-1]:
        for file in network.files:
            own, before = file.row.metrics["accuracy"], rows[network.name]["metrics"]["accuracy"]
            assert file.change("accuracy") == pytest.approx(own - before)
            plain = rows[f"{network.name}.{file.row.format}"]
            ratio = file.row.cost.size_bytes / plain["cost"]["size_bytes"]
            assert file.share == (None if file.row.name == plain["name"] else pytest.approx(ratio))
    for file in files.made(typed(everything))[-1].files:
        assert (file.plain, file.share) == (None, None)
    error = files.made(typed(smaller_regression()))[0].files[1]
    assert error.change("rmse") == pytest.approx(-0.5 * 1.02 * 55.0)  # half as large again


def test_results_of_before_files_said_their_precision():
    [network] = files.made(typed(classification(seeds=2)))
    assert network.name == "distilled-seed0"
    assert [(f.row.format, f.precision, f.change("accuracy")) for f in network.files] == [
        ("litert", "float32", 0),
        ("onnx", "float32", 0),
    ]
    assert pareto.points(typed(classification(seeds=2)), "accuracy") == []


@pytest.mark.parametrize(
    ("plain", "own", "expected"),
    [
        (
            {"batch_ms": 0.71},
            {"batch_ms": 1.17, "size": 27_000},
            "int8 is slower than float32 here: 1.17 ms instead of 0.710 ms for 64 rows; ship the float file, or int8 "
            "for its size",
        ),
        (
            {"latency_ms": 2.0, "batch_ms": 100.0},
            {"latency_ms": 3.0, "batch_ms": 120.0},
            "int8 is slower than float32 here: 3.00 ms instead of 2.00 ms for one row and 120 ms instead of 100 ms for "
            "64 rows; ship the float file",
        ),
        (
            {"latency_ms": 2.0, "batch_ms": 100.0},
            {"latency_ms": 1.0, "batch_ms": 120.0},
            "int8 is slower than float32 here: 120 ms instead of 100 ms for 64 rows, though faster for one row",
        ),
        (
            {"latency_ms": 2.0},
            {"latency_ms": 1.96, "size": 50_000},
            "int8 is no faster than float32 here: 1.96 ms instead of 2.00 ms for one row; ship the float file, or int8 "
            "for its size",
        ),
        ({"latency_ms": 2.0, "batch_ms": 100.0}, {"latency_ms": 1.99, "batch_ms": 50.0}, ""),
        ({"latency_ms": 2.0}, {"latency_ms": 1.0}, ""),
        ({}, {}, ""),
    ],
)
def test_a_plain_word_where_int8_saves_no_time(plain, own, expected):
    result = classification(seeds=1)
    result["models"] = [one("a", "float32", **plain), one("b", "int8", **own), one("c", "w8", latency_ms=99.0)]
    [network] = files.made(typed(result))
    assert [files.no_faster(file) for file in network.files] == ["", expected, ""]


def test_runtimes_in_which_int8_saves_no_time_are_named_once(everything):
    # Of the student and of the four variants with float files; one that learned quantized has none beside it.
    assert files.said_of_speed(files.made(typed(everything))) == [
        "In ONNX Runtime int8 is slower than float32 or no faster for all 5 networks.",
        "In OpenVINO int8 is slower than float32 or no faster for all 5 networks.",
    ]
    fast = next(m for m in everything["models"] if m["name"] == "half-seed0.onnx-int8")
    cost = fast["cost"] | {"latency_ms": 0.001, "batch_ms": 0.01}
    models = [m | {"cost": cost} if m is fast else m for m in everything["models"]]
    said = files.said_of_speed(files.made(typed(everything | {"models": models})))
    assert said[0] == "In ONNX Runtime int8 is slower than float32 or no faster for 4 of 5 networks."


# --- the page --------------------------------------------------------------------------------------


def test_the_page_has_every_file_once_with_its_numbers(everything, drawn):
    page, plots = drawn
    for row in everything["models"]:
        if row["role"] == "exported":
            assert (
                len(re.findall(rf'<a href="./{re.escape(row["file"])}">[^<]*</a> <span class="precision">', page)) == 1
            )
    assert {"pareto-size", "pareto-latency", "budget-plot"} <= plots.keys()
    assert "int8 is slower than float32 here: 0.031 ms instead of 0.024 ms for one row and 1.17 ms instead of" in page
    assert "2 layers stay float so that no more than 0.0025 is lost: conv1, head" in page
    assert page.count("Times are medians on one CPU thread") == 1
    assert "The ranges of integers were measured on 300 training rows." in page
    assert page.count(">winner<") == 1
    assert "Layer by layer" in page


def test_smaller_students_have_their_own_table_of_all_metrics(everything, drawn):
    page, _ = drawn
    models = page[page.index('id="models"') : page.index('id="smaller"')]
    assert 'tbody class="summary distilled"' in models
    assert "compressed" not in models
    details = page[page.index("All metrics") : page.index('id="files"')]
    assert details.count('tbody class="summary compressed"') == len(WAYS)
    assert details.count('tbody class="summary compressed-alone"') == sum(way[2] is not None for way in WAYS.values())
    assert "half without the teacher" in details


def test_a_result_of_before_has_none_of_the_new_sections(tmp_path):
    page, plots = page_of(regression(), tmp_path / "report.html")
    for section in ("smaller", "budget"):
        assert f'id="{section}"' not in page
    assert "pareto-size" not in plots
    assert 'id="files"' in page  # its one file
    assert "CPU thread, below them" not in page  # what was not measured is not explained


def test_smaller_students_are_shown_without_any_file(tmp_path):
    page, plots = page_of(no_files(), tmp_path / "report.html")
    assert 'id="files"' not in page
    assert {"pareto-size", "pareto-latency"} <= plots.keys()
    assert 'id="pareto-size"' in page
    assert "half-seed0 (111.0 kB, " in page


def test_names_are_text_there_too(tmp_path):
    result = within_budget()
    result["compressed"][0] |= {"name": EVIL, "told": {EVIL: [EVIL]}}
    result["budget"] |= {"words": EVIL, "start": EVIL}
    result["budget"]["trials"][-2]["reason"] = EVIL
    for row in result["models"]:
        if row["name"] == "distilled-seed0" or row.get("source") == "distilled-seed0":
            row |= {"notes": [EVIL], "source": EVIL, "file": EVIL}
    write_report(typed(result), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5


# --- the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [within_budget, smaller_regression, classification])
def test_the_terminal_keeps_to_its_columns_and_cuts_no_number(monkeypatch, capsys, sample):
    monkeypatch.setenv("COLUMNS", "80")
    show(typed(sample()), Path("runs/x"))
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown


def test_the_terminal_shows_ways_the_budget_and_of_many_files_the_best(capsys, everything):
    show(typed(everything), Path("runs/x"))
    shown = capsys.readouterr().out
    half = next(line for line in shown.splitlines() if line.startswith("half "))
    own, alone = (statistics.fmean(accuracies(everything, stage)) for stage in ("half", "half-alone"))
    assert half.split()[1] == f"{100 * own:.2f}"
    assert f"{100 * (own - alone):+.2f} helps" in half
    assert "Budget: the smallest of 8 trials within the budget" in shown
    count = sum(m["role"] == "exported" for m in everything["models"])
    assert f"{count} files; these no other beats in size or time" in shown
    found = pareto.points(typed(everything), "accuracy")
    best = {p.name for key in pareto.PLOTS.values() for p in pareto.front(found, key, "accuracy")}
    listed = [line for line in shown.splitlines() if re.match(r"  (LiteRT|ONNX Runtime|ExecuTorch|OpenVINO), ", line)]
    assert len(listed) == len(best - {m["name"] for m in everything["models"] if m["role"] != "exported"})
    assert "note: In ONNX Runtime int8 is slower than float32" in " ".join(shown.split())


def test_the_terminal_shows_all_of_few_files(capsys):
    show(typed(classification(seeds=2)), Path("runs/x"))
    shown = capsys.readouterr().out
    assert "2 files" in shown
    assert "  LiteRT, float32" in shown
    assert "  ONNX Runtime, float32" in shown
