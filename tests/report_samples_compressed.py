"""Results of runs that made their student smaller and exported it in many ways, invented but consistent."""

from report_samples import CLOTHES, classified, learning, model, regression, students, taught

from limbeck import recipe
from limbeck.evaluate import compare

PARAMS, MACS, LEVEL = 105_866, 1_412_608, 0.897
# name -> steps, score with the teacher, without it (None: no training), share of parameters and of MACs left
WAYS = {
    "half": ([{"prune": 0.5, "recover": 2}], 0.886, 0.878, 0.26, 0.28),
    "quarter": (
        [{"prune": {"macs": 0.1, "steps": 3, "scope": "global", "keep": ["fc1"]}, "recover": 1}],
        0.871, 0.852, 0.08, 0.1,
    ),
    "thin": ([{"factorise": 0.8, "recover": {"epochs": 1}}, {"prune": 0.25, "recover": 1}], 0.889, 0.887, 0.4, 0.35),
    "sparse": ([{"sparsify": "2:4"}], 0.861, None, 1.0, 1.0),
    "rounded": ([{"prune": 0.5, "recover": 1}, {"quantize": 4, "recover": 3}], 0.882, 0.874, 0.26, 0.28),
}  # fmt: skip
FORMATS = (
    "litert", "litert-fp16", "litert-int8", "litert-w8", "litert-w4", "onnx", "onnx-int8", "executorch",
    "executorch-int8", "openvino", "openvino-int8",
)  # fmt: skip
SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "executorch": ".pte", "openvino": ".xml"}
BYTES = {"float32": 4.0, "fp16": 2.0, "int8": 1.04, "w8": 1.02, "w4": 0.53}  # of a parameter
LOST = {"float32": 0.0, "fp16": 0.0, "int8": 0.001, "w8": 0.0, "w4": 0.006}
# of the whole student: milliseconds for one row and for 64, in float32 and in int8
SPEED = {
    "litert": ((0.019, 1.21), (0.011, 0.68)), "onnx": ((0.024, 0.71), (0.031, 1.17)),
    "executorch": ((0.025, 1.1), (0.021, 0.9)), "openvino": ((0.044, 0.84), (0.043, 0.85)),
}  # fmt: skip


def exported(network, name, share, shift=0.0, notes=()):
    """A file of a network: its scores a little off, its costs in keeping with what is left of the network."""
    form, _, precision = name.partition("-")
    precision = precision or "float32"
    n = network["metrics"]["n"]
    right = round(n * (network["metrics"]["accuracy"] - LOST[precision] - shift))
    whole = precision in ("float32", "fp16")
    one, many = SPEED[form][precision == "int8"]
    metrics = network["metrics"] if whole and not shift else network["metrics"] | {"accuracy": right / n}
    metrics = {key: value for key, value in metrics.items() if key not in ("agreement", "kl")}
    end = f".{precision}{SUFFIXES[form]}" if "-" in name else SUFFIXES[form]
    return {
        "name": f"{network['name']}.{name}", "role": "exported", "seed": network["seed"], "format": form,
        "file": f"export/{network['name']}{end}", "metrics": metrics,
        "cost": {
            "params": network["cost"]["params"], "macs": network["cost"]["macs"],
            "size_bytes": round(4_000 + BYTES[precision] * network["cost"]["params"]),
            "latency_ms": one * (0.3 + 0.7 * share), "fastest_ms": 0.9 * one * (0.3 + 0.7 * share),
            "batch_ms": many * (0.2 + 0.8 * share), "memory_mb": 1.5 + 4e-6 * network["cost"]["params"] * 4,
        },
        "parity": {
            "max_abs_error": 2.4e-6 if precision == "float32" else 0.004 if precision == "fp16" else 0.31,
            "agreement": 1.0 if whole and not shift else 0.991 - shift,
        },
        "precision": precision, "source": network["name"], "notes": list(notes),
    }  # fmt: skip


def sized(row, params, macs, latency_ms=None):
    cost = {
        "params": params,
        "macs": macs,
        "size_bytes": 4 * params + 900,
        "latency_ms": latency_ms,
        "fastest_ms": None,
    }
    return row | {"cost": cost}


def compressed(seeds=3, n=1000, ways=tuple(WAYS), formats=FORMATS, files=None):
    """Students made smaller in several ways, and of each way the best in several formats."""
    chosen = {name: WAYS[name] for name in ways}
    steps = {name: way[0] for name, way in chosen.items()}
    settings = recipe.load("mnist-distiller").model_dump(mode="json", exclude_unset=True)
    told = {"name": "mnist-compress", "about": "", "seeds": seeds, "compress": steps, "export": list(formats)}
    spec = recipe.load(settings | told | ({"files": files or {"calibration": 300}} if formats else {}))
    models = [sized(model("teacher", "teacher", None, classified(CLOTHES, 0.915, n, 1), "teacher/best.safetensors"),
                    421_642, 4_241_152, 0.41)]  # fmt: skip
    for role, level, offset in (("student", 0.885, 1), ("distilled", LEVEL, 2)):
        models += [sized(row, PARAMS, MACS, 0.16) for row in students(role, level, seeds, n, offset=offset)]
    starts = [m for m in models if m["role"] == "distilled"]
    start = starts[0]
    files_of = [(start, 1.0)]
    for i, (name, (_, level, alone, params, macs)) in enumerate(chosen.items()):
        for role, score, ending in (("compressed", level, ""), ("compressed-alone", alone, "-alone")):
            if score is None:
                continue
            rows = students(role, score, seeds, n, offset=10 + 2 * i + len(ending))
            for seed, (row, before) in enumerate(zip(rows, starts, strict=True)):
                # As far from its start as the way says, give or take a little: seeds go together.
                right = (
                    before["metrics"]["accuracy"]
                    - (LEVEL - score)
                    + 0.001 * ((seed * (2 if ending else 1) + i) % 3 - 1)
                )
                row["metrics"]["accuracy"] = round(n * right) / n
                row |= {"name": f"{name}{ending}-seed{seed}", "variant": name}
                row["file"] = f"{row['name']}/model.safetensors"
            shared = (round(params * PARAMS), round(macs * MACS), 0.05 + 0.11 * macs if not ending else None)
            models += [sized(row, *shared) for row in rows]
        files_of.append((next(m for m in models if m["name"] == f"{name}-seed0"), macs))
    files_ = []
    for network, share in files_of:
        rounded = network["name"].startswith("rounded")
        for form in formats:
            if rounded and not form.endswith("-int8"):
                continue
            broken = 0.3 if form == "litert-w4" and network["name"].startswith("quarter") else 0.0
            note = "2 layers stay float so that no more than 0.0025 is lost: conv1, head"
            notes = [note] if form == "onnx-int8" and network is start else []
            files_.append(exported(network, form, share, broken, notes))
    result = taught(spec, models)
    result["models"] = models + files_
    result["curves"] |= {m["name"]: learning("accuracy", 0.87, 2, 7) for m in models if m["role"] == "compressed"}
    return result | {"compressed": [_entry(result, name) for name in chosen], "budget": None}


def _entry(result, name):
    scores = {m["name"]: m["metrics"]["accuracy"] for m in result["models"] if m["format"] == "pytorch"}
    seeds = result["recipe"]["seeds"]

    def held(before, after, subject):
        given = ([scores[f"{stage}-seed{seed}"] for seed in seeds] for stage in (before, after))
        return compare(*given, metric="accuracy", higher_is_better=True, subject=subject)

    alike = ["conv1: 16x1x3x3 -> 8x1x3x3: 144 -> 72 parameters (-50.0%)"]
    told = {f"{name}-seed{seed}": alike + (["fc1: own"] if name == "thin" and seed else []) for seed in seeds}
    return {
        "name": name, "steps": result["recipe"]["compress"][name], "told": told,
        "start": {f"{name}-seed{seed}": f"distilled-seed{seed}" for seed in seeds},
        "against_start": held("distilled", name, name),
        "with_teacher": held(f"{name}-alone", name, "the teacher") if f"{name}-alone-seed0" in scores else None,
    }  # fmt: skip


# ratio, energy, precision, kB, ms, loss, chance; None for the cost of one that failed
TRIALS = (
    (0.0, 1.0, "int8", 114.1, 0.011, 0.0008, 0.99), (0.5, 1.0, "int8", 32.6, 0.006, 0.0112, 0.41),
    (0.75, 1.0, "int8", 12.8, 0.004, 0.031, 0.0001), (0.0, 0.8, "int8", 48.0, 0.009, 0.004, 0.9),
    (0.625, 0.95, "w4", 11.9, 0.012, 0.29, 0.0), (0.5, 0.9, "fp16", 55.2, 0.009, 0.0102, 0.45),
    (0.875, 0.7, "int8", None, None, None, None), (0.25, 1.0, "float32", 240.3, 0.014, -0.0004, 1.0),
)  # fmt: skip


def searched(winner=True, limit_kb=40.0):
    """The record of a search within a budget; the front is that of size, time and loss."""
    trials = []
    for ratio, energy, precision, size_kb, latency_ms, drop, p_more in TRIALS:
        failed = size_kb is None
        within = not failed and p_more >= 0.05 and size_kb <= limit_kb and winner
        trial = {
            "way": {"ratio": ratio, "energy": energy, "precision": precision}, "format": f"litert-{precision}",
            "steps": [], "value": None, "reason": "the loss is not a number", "within": False,
        }  # fmt: skip
        if not failed:
            trial |= {
                "value": size_kb + (0 if within else 1000), "reason": None, "size_kb": size_kb, "drop": drop,
                "latency_ms": latency_ms, "p_more": p_more, "within": within,
            }  # fmt: skip
        trials.append(trial)
    measured = [t for t in trials if t["value"] is not None]
    for t in measured:
        costs = [t[k] for k in ("size_kb", "latency_ms", "drop")]
        others = [[o[k] for k in ("size_kb", "latency_ms", "drop")] for o in measured if o is not t]
        t["front"] = not any(all(a <= b for a, b in zip(o, costs, strict=True)) for o in others)
    best = min((t for t in measured if t["within"]), key=lambda t: t["size_kb"], default=None)
    words = f"none of {len(trials)} trials keeps to the budget"
    if best:
        words = f"the smallest of {len(trials)} trials within the budget: litert-int8, 33 kB, 0.006 ms"
    return {
        "budget": {
            "accuracy_drop": 0.01, "size_kb": limit_kb, "latency_ms": 0.02, "runtime": "litert", "trials": len(trials),
            "recover": {"epochs": 2, "lr": None},
        },
        "metric": "accuracy", "start": "distilled-seed0", "trials": trials, "winner": best, "words": words,
    }  # fmt: skip


def smaller_regression():
    """A student that predicts two values, pruned once, in two precisions of one runtime."""
    result = regression()
    start = next(m for m in result["models"] if m["name"] == "distilled-seed0")
    scores = [m["metrics"]["rmse"] for m in result["models"] if m["role"] == "distilled"]
    result["models"] = [m for m in result["models"] if m["role"] != "exported"]
    own = [1.02 * score for score in scores]
    for seed, score in enumerate(own):
        metrics = start["metrics"] | {"rmse": score}
        result["models"].append(
            model(f"half-seed{seed}", "compressed", seed, metrics, f"half-seed{seed}/m.st", scale=4e-4)
        )
    for precision, rmse in (("float32", own[0]), ("int8", 1.5 * own[0])):
        row = model("", "exported", 0, start["metrics"] | {"rmse": rmse}, f"export/h.{precision}.xml", "openvino", 3e-4)
        row |= {"name": f"half-seed0.openvino-{precision}", "precision": precision, "source": "half-seed0", "notes": []}
        result["models"].append(row | {"parity": {"max_abs_error": 0.02, "agreement": None}})
    names = [f"half-seed{seed}" for seed in range(len(own))]
    entry = {
        "name": "half", "steps": [{"prune": {"ratio": 0.5}, "recover": {"epochs": 0}}], "with_teacher": None,
        "told": {name: [] for name in names}, "start": {name: name.replace("half", "distilled") for name in names},
        "against_start": compare(scores, own, metric="rmse", higher_is_better=False, subject="half"),
    }  # fmt: skip
    return result | {"compressed": [entry], "budget": None}


def within_budget():
    """Everything at once: ways, many files, and a search."""
    return compressed() | {"budget": searched()}


def no_files():
    """Students made smaller and none exported."""
    return compressed(ways=("half", "sparse"), formats=())
