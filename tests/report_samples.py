"""Results of runs, as result.json holds them: what the page and the terminal's table are tested with."""

import math
import random
import re

from limbeck import recipe
from limbeck.core.result import parse_result
from limbeck.evaluate import compare

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def model(name, role, seed, metrics, file=None, fmt="pytorch", scale=1.0, parity=None):
    told = re.fullmatch(r"(.+?)(?:-alone)?-seed\d+(?:-(?:gen|peer)(\d+))?", name)
    own = told[1] if told and role in ("compared", "compressed", "compressed-alone") else ""
    return {
        "name": name, "role": role, "seed": seed, "format": fmt, "file": file, "metrics": metrics,
        "cost": {
            "params": round(1_210_000 * scale), "macs": round(14_300_000 * scale),
            "size_bytes": round(4_850_000 * scale), "latency_ms": 1.9 * scale,
        },
        "parity": parity, "variant": own, "number": int(told[2]) if told and told[2] else None,
    }  # fmt: skip


def classified(names, accuracy, n, seed):
    """Metrics as `limbeck.evaluate` gives them, from a confusion matrix drawn at random."""
    draw = random.Random(seed)
    matrix = [[0] * len(names) for _ in names]
    for row in range(n):
        true = row % len(names)
        right = draw.random() < accuracy - 0.12 * (true == 6 % len(names))
        near = (true + draw.choice((1, 2, 2, 4))) % len(names)
        matrix[true][true if right else near] += 1
    right = sum(matrix[i][i] for i in range(len(names)))
    return {
        "accuracy": right / n, "nll": 3.1 * (1 - right / n), "ece": 0.013 + draw.random() / 100,
        "per_class_accuracy": {c: row[i] / sum(row) for i, (c, row) in enumerate(zip(names, matrix, strict=True))},
        "confusion": matrix, "n": n,
    }  # fmt: skip


def learning(metric, goal, epochs, seed):
    draw = random.Random(seed)
    rows = []
    for epoch in range(1, epochs + 1):
        level = goal * (1 - 0.5 * math.exp(-epoch / 2)) + draw.gauss(0, 0.004) * goal
        rows.append({
            "epoch": epoch, "train_loss": 1.2 / epoch, "val_loss": 0.25 + 0.9 / epoch + draw.gauss(0, 0.01),
            f"val_{metric}": level, "lr": 1e-3, "seconds": 3.2,
        })  # fmt: skip
    return rows


def environment():
    return {
        "python": "3.11.9", "platform": "Linux x86_64", "processor": "A processor", "cores": 2, "threads": 2,
        "accelerator": None, "versions": {"limbeck": "0.1.0", "torch": "2.14.1"},
    }  # fmt: skip


def result_of(spec, data, models, comparison, curves, chosen):
    whole = {
        "schema": 1, "name": spec.name, "about": spec.about, "created": "2026-11-21T10:00:00+00:00", "limbeck": "0.1.0",
        "recipe": spec.model_dump(mode="json"), "recipe_yaml": recipe.dump(spec), "environment": environment(),
        "data": data, "models": models, "comparison": comparison, "chosen": chosen, "curves": curves,
        "teachers": [{"name": t.name, "val": {}, "notes": []} for t in spec.teachers],
        "seconds": {"data": 1.2, "teacher": 130.1, "students": 95.0, "measured": 21.0}, "notes": [],
    }  # fmt: skip
    return parse_result(whole, "result.json").content()


def classification(names=CLOTHES, seeds=5):
    """A finished run with a teacher, students at several seeds and two exports."""
    spec = recipe.load("mnist-distiller", [f"seeds={seeds}", "augment={shift: 2}"])
    names, n = list(names), 100 * len(names)
    data = {
        "name": "Fashion-MNIST", "task": "classification", "shape": [1, 28, 28],
        "counts": {"train": 54000, "val": 6000, "test": n}, "classes": names, "fingerprint": "0123456789abcdef",
        "class_counts": {split: [100] * len(names) for split in ("train", "val", "test")},
        "notes": ["MNIST was not found, so Fashion-MNIST was used"],
    }  # fmt: skip
    models = [model("teacher", "teacher", None, classified(names, 0.93, n, 1), "teacher/best.safetensors")]
    curves = {"teacher": learning("accuracy", 0.93, 5, 0)}
    for role, level in (("student", 0.87), ("distilled", 0.92)):
        for seed in range(seeds):
            name = f"{role}-seed{seed}"
            metrics = classified(names, level, n, seed + 10 * len(role))
            metrics |= {"agreement": metrics["accuracy"] + 0.02, "kl": 0.1}
            models.append(model(name, role, seed, metrics, f"{name}/best.safetensors", scale=1 / 30))
            curves[name] = learning("accuracy", level, 3, seed + 10 * len(role))
    by_role = {r: [m["metrics"]["accuracy"] for m in models if m["role"] == r] for r in ("student", "distilled")}
    best = next(m for m in models if m["role"] == "distilled")
    for fmt, end in (("onnx", "onnx"), ("litert", "tflite")):
        parity = {"max_abs_error": 2.4e-6, "agreement": 1.0}
        file = f"export/{best['name']}.{end}"
        models.append(model(f"{best['name']}.{fmt}", "exported", 0, best["metrics"], file, fmt, 1 / 40, parity))
    comparison = compare(by_role["student"], by_role["distilled"], metric="accuracy", higher_is_better=True)
    chosen = {"name": best["name"], "why": "best accuracy on validation (0.9071) of 10 students"}
    return result_of(spec, data, models, comparison, curves, chosen)


def regression():
    """A finished run that predicts two values and has three seeds."""
    spec = recipe.load("diabetes-regression", ["seeds=3", "export=[onnx]"])
    data = {
        "name": "linnerud", "task": "regression", "shape": [10], "counts": {"train": 300, "val": 60, "test": 90},
        "classes": ["weight", "waist"], "fingerprint": "feed", "notes": [],
    }  # fmt: skip

    def errors(rmse):
        each = {"mae": 0.8 * rmse, "rmse": rmse, "r2": 0.45}
        return {**each, "n": 90, "per_output": {"weight": each, "waist": {**each, "r2": None}}}

    models = [model("teacher", "teacher", None, errors(53.2), "teacher/best.safetensors", scale=1 / 100)]
    curves = {"teacher": learning("rmse", 53.2, 60, 0)}
    scores = {"student": [55.1, 56.0, 55.2], "distilled": [55.0, 55.4, 55.9]}
    for role, values in scores.items():
        for seed, value in enumerate(values):
            metrics = errors(value) | {"rmse_to_teacher": 8.0}
            models.append(
                model(f"{role}-seed{seed}", role, seed, metrics, f"{role}-seed{seed}/best.safetensors", scale=1e-3)
            )
            curves[f"{role}-seed{seed}"] = learning("rmse", value, 50 + seed, seed)
    parity = {"max_abs_error": 2e-5, "agreement": None}
    models.append(model("distilled-seed0.onnx", "exported", 0, errors(55.0), "export/d.onnx", "onnx", 1e-3, parity))
    comparison = compare(scores["student"], scores["distilled"], metric="rmse", higher_is_better=False)
    return result_of(spec, data, models, comparison, curves, {"name": "distilled-seed0", "why": "best rmse"})


def alone():
    """A run with no teacher, one seed and no exports, where the network was loaded and nothing recorded."""
    result = classification(seeds=1)
    spec = recipe.load({"data": {"source": "digits"}, "student": {"model": "mlp"}, "losses": {"hard": 1.0}, "seeds": 1})
    return result | {
        "models": [m for m in result["models"] if m["role"] == "student"], "comparison": None, "teachers": [],
        "curves": {}, "recipe": spec.model_dump(mode="json"), "recipe_yaml": recipe.dump(spec),
        "chosen": {"name": "student-seed0", "why": "the only one"},
    }  # fmt: skip


# --- several teachers, chains and self-teaching ----------------------------------------------------


def students(role, level, seeds, n, *, ending="", offset=0):
    """Rows of one network at every seed, a little apart from each other."""
    rows = []
    for seed in range(seeds):
        name = f"{'distilled' if role in ('generation', 'peer') else role}-seed{seed}{ending}"
        metrics = classified(CLOTHES, level, n, 100 * offset + seed) | {"agreement": level}
        rows.append(model(name, role, seed, metrics, f"{name}/best.safetensors", scale=1 / 30))
    return rows


def taught(spec, models, title=None, subject="the teacher", comparisons=(), **more):
    """A finished run on clothes with these models; `comparisons` are (title, role, ending, role, ending, subject)."""

    def scores(role, ending=""):
        return [m["metrics"]["accuracy"] for m in models if m["role"] == role and m["name"].endswith(ending)]

    def compared(without, given, subject):
        return compare(without, given, metric="accuracy", higher_is_better=True, subject=subject)

    curves = {
        m["name"]: learning("accuracy", m["metrics"]["accuracy"], 5, i) for i, m in enumerate(models) if m["file"]
    }
    base = classification(seeds=1)
    chosen = {"name": "distilled-seed0", "why": "best accuracy on validation (0.9071)"}
    result = result_of(
        spec,
        base["data"] | {"notes": []},
        models,
        compared(scores("student"), scores("distilled"), subject),
        curves,
        chosen,
    )
    result["comparisons"] = [
        {"title": title, **compared(scores(*before), scores(*after), subject)}
        for title, before, after, subject in comparisons
    ]
    return result | {"ensemble": None, "views": 1, "cache": []} | more


def opening(teacher, key, *, asked, found, seconds=0.0, views=1, rows=54000):
    return {
        "teacher": teacher, "key": key, "bytes": 20 * rows * views, "rows": rows, "views": views, "dtype": "float16",
        "top_k": None, "taps": [], "seconds": seconds, "asked": asked, "found": found,
    }  # fmt: skip


def ensemble(members=3, seeds=5, n=1000):
    """Several teachers, weighted, and three students who read what was stored of them."""
    names = ("wide", "deep", "narrow-but-with-a-long-name", "fourth", "fifth", "sixth")[:members]
    spec = recipe.load("tabular-ensemble", ["combine={name: weighted, weights: accuracy}", f"seeds={seeds}"])
    levels = (0.91, 0.93, 0.89, 0.9, 0.92, 0.88)
    models = [
        model(name, "teacher", None, classified(CLOTHES, level, n, i), f"{name}/best.safetensors")
        for i, (name, level) in enumerate(zip(names, levels, strict=False))
    ]
    models.append(model("ensemble", "teacher", None, classified(CLOTHES, 0.945, n, 9), None, scale=members))
    models += students("student", 0.87, seeds, n, offset=1) + students("distilled", 0.885, seeds, n, offset=2)
    pairwise = [[0.0 if i == j else 0.04 + 0.015 * (i + j) for j in range(members)] for i in range(members)]
    pairs = [v for i, row in enumerate(pairwise) for v in row[:i]]
    disagreement = {
        "names": list(names), "n": n, "pairwise": pairwise, "mean_pairwise": sum(pairs) / len(pairs),
        "all_agree": 0.883, "divergence": 0.0312, "oracle": 0.981,
    }  # fmt: skip
    weights = {name: 1 / members + 0.01 * i for i, name in enumerate(names)}
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    cache = [opening(name, f"key-{name}", asked=54000, found=0, seconds=12.5) for name in names]
    cache += [opening(name, f"key-{name}", asked=0, found=54000) for name in names] * (seeds - 1)
    joined = {
        "combine": "weighted", "words": f"the mean of {members} teachers, weighted by validation score: {told}",
        "weights": weights, "disagreement": disagreement,
    }  # fmt: skip
    return taught(spec, models, ensemble=joined, cache=cache)


def chain(seeds=5, n=1000):
    """Teacher, assistant, student; and a student of the teacher itself."""
    spec = recipe.load("assistant-chain", [f"seeds={seeds}"])
    models = [
        model("teacher", "teacher", None, classified(CLOTHES, 0.93, n, 1), "teacher/best.safetensors"),
        model("assistant", "assistant", None, classified(CLOTHES, 0.91, n, 2), "assistant/best.safetensors", scale=0.2),
        *students("student", 0.85, seeds, n, offset=1),
        *students("direct", 0.86, seeds, n, offset=2),
        *students("distilled", 0.885, seeds, n, offset=3),
    ]
    title = "The chain against the student of the teacher itself"
    cache = [
        opening("teacher", "t", asked=54000, found=0, seconds=20.0),
        opening("assistant", "a", asked=54000, found=0),
    ]
    return taught(
        spec, models, comparisons=[(title, ("direct",), ("distilled",), "the assistant")], cache=cache, views=4
    )


def born_again(seeds=5, n=1000):
    """Three generations without a teacher."""
    spec = recipe.load("born-again", [f"seeds={seeds}"])
    models = students("student", 0.88, seeds, n, offset=1)
    models += students("generation", 0.892, seeds, n, ending="-gen1", offset=2)
    models += students("generation", 0.895, seeds, n, ending="-gen2", offset=3)
    models += students("distilled", 0.896, seeds, n, offset=4)
    comparisons = [
        ("Generation 2 against generation 1", ("generation", "gen1"), ("generation", "gen2"), "generation 2"),
        ("Generation 3 against generation 2", ("generation", "gen2"), ("distilled",), "generation 3"),
    ]
    cache = [
        opening(m["name"], m["name"], asked=54000, found=0, seconds=2.0) for m in models if m["role"] != "distilled"
    ]
    return taught(spec, models, subject="learning from itself", comparisons=comparisons, cache=cache)


def peers(seeds=5, n=1000):
    """Three students that learn together."""
    spec = recipe.load("mutual-learning", [f"seeds={seeds}"])
    models = students("student", 0.88, seeds, n, offset=1) + students("distilled", 0.889, seeds, n, offset=2)
    for number in (1, 2):
        models += students("peer", 0.889, seeds, n, ending=f"-peer{number}", offset=2 + number)
    return taught(spec, models, subject="learning together")


# Losses, and how much better than 0.85 their students are. One collapses; the last is as good as the student alone.
METHODS = {
    "at": ({"hard": 1.0, "at": {"student": ["act1", "act2"], "teacher": ["act1", "act3"]}}, 0.012),
    "fitnet": ({"hard": 1.0, "fitnet": {"weight": "auto"}}, 0.03),
    "ctkd": ({"hard": 0.1, "ctkd": {"weight": {"start": 0, "end": 0.9, "epochs": 2}}}, 0.02),
    "mlld": ({"hard": 0.1, "mlld": {}}, -0.6),
    "lskd-dkd": ({"hard": 0.1, "soft": {"loss": "lskd", "wraps": "dkd", "alpha": 0.0}}, 0.04),
    "srrl": ({"hard": 1.0, "srrl": {}}, -0.04),
    "label-smoothing": ({"hard": {"weight": 1.0, "label_smoothing": 0.1}}, 0.0),
}


def compared(count=7, seeds=5, n=1000):
    """Several sets of losses in one run, each against the same students alone."""
    names = [*METHODS, *(f"variant{i}-of-the-same-loss" for i in range(count))][:count]
    chosen = {name: METHODS.get(name, METHODS["at"]) for name in names}
    terms = {name: losses for name, (losses, _) in chosen.items()}
    kd = {"hard": 0.1, "kd": {"weight": 0.9, "temperature": {"start": 8, "end": 2, "shape": "cosine"}}}
    recipe_of = {"data": {"source": "digits"}, "student": {"model": "conv-pool"}, "losses": kd, "compare": terms}
    recipe_of |= {"teachers": [{"model": "conv-pool", "train": {}}], "seeds": seeds, "name": "compare-losses"}
    spec = recipe.load(recipe_of)
    models = [model("teacher", "teacher", None, classified(CLOTHES, 0.93, n, 1), "teacher/best.safetensors")]
    models += students("student", 0.85, seeds, n, offset=1) + students("distilled", 0.885, seeds, n, offset=2)
    for i, (name, (_, gain)) in enumerate(chosen.items()):
        models += [
            m | {"role": "compared", "variant": name} for m in students(name, 0.85 + gain, seeds, n, offset=3 + i)
        ]
    result = taught(spec, models)
    for name, rows in result["curves"].items():
        for row in rows:
            row["seconds"] = 5.0 if name.startswith("fitnet") else 2.0
    return result | {"methods": [_method(result, name) for name in ("distilled", *chosen)]}


def _method(result, name):
    def of(stage):
        return [m["metrics"]["accuracy"] for m in result["models"] if m["name"].startswith(f"{stage}-seed")]

    losses = result["recipe"]["losses"] if name == "distilled" else result["recipe"]["compare"][name]
    found = [{"fitnet": 0.2 + 0.1 * seed} for seed in range(len(of(name)))] if name == "fitnet" else []
    seconds = [sum(e["seconds"] for e in rows) for n, rows in result["curves"].items() if n.startswith(f"{name}-seed")]
    against = compare(of("student"), of(name), metric="accuracy", higher_is_better=True, subject=name)
    return {"name": name, "losses": losses, "weights": found, "seconds": seconds, **against}


def regression_ensemble():
    """Two teachers of measured values, joined by their median."""
    result = regression()
    teacher = result["models"][0]
    second = teacher | {"name": "second", "metrics": teacher["metrics"] | {"rmse": 52.0}}
    together = teacher | {"name": "ensemble", "file": None, "metrics": teacher["metrics"] | {"rmse": 51.5}}
    result["models"][1:1] = [second, together]
    result["recipe"]["teachers"].append(result["recipe"]["teachers"][0] | {"name": "second"})
    disagreement = {
        "names": ["teacher", "second"], "n": 90, "pairwise": [[0.0, 9.25], [9.25, 0.0]], "mean_pairwise": 9.25,
        "spread": 3.1,
    }  # fmt: skip
    joined = {"combine": "median", "words": "the median of 2 teachers", "weights": None, "disagreement": disagreement}
    return result | {"ensemble": joined, "comparisons": [], "cache": [opening("second", "s", asked=0, found=300)]}


def typed(content):
    """A result, or some keys of one, as the report takes it."""
    return parse_result({**alone(), **content}, "here")
