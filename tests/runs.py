"""A small run, and what tests of runs ask of it."""

import json
import subprocess
import sys
import time

TINY = {
    "name": "tiny",
    "data": {"source": "digits", "limit": 400, "split": {"val": 0.2, "test": 0.25}},
    "teachers": [{"model": "conv-leaky", "options": {"channels": [16, 16]}, "train": {"epochs": 3, "batch_size": 32}}],
    "student": {
        "model": "conv-leaky",
        "options": {"channels": [4, 4]},
        "train": {"epochs": 3, "batch_size": 32, "lr": 3e-3},
    },
    "losses": {"hard": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "seeds": [0, 1],
    "run": {"threads": 1, "device": "cpu"},
}


def tiny(**changes):
    return {**TINY, **changes}


def one(result, name):
    return next(model for model in result["models"] if model["name"] == name)


def write(path, recipe):
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None
        time.sleep(0.002)


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "limbeck", *map(str, words)], capture_output=True, text=True, check=False, **options
    )


def asked_again(folder):
    from limbeck.pipeline import doctor

    return {name: found.disagreements for name, found in doctor.recheck(folder, sample=8).items()}
