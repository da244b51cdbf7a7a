"""What every test file may use."""

import os
import time
from collections import Counter

import psutil
import pytest

from limbeck.export import process
from limbeck.export.workers import warm


def need(present: bool, what: str) -> None:
    """Skip a test whose data or extra is absent, or fail it where everything was said to be installed."""
    if not present:
        if os.environ.get("LIMBECK_REQUIRE_DATA") == "1":
            pytest.fail(f"needs {what}, and LIMBECK_REQUIRE_DATA=1 says that it is here")
        pytest.skip(f"needs {what}")


def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first, so that no process is left with one of them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep what tests store out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LIMBECK_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _warm():
    """Let the tests of a process share converters and runtimes: their imports take longer than most tests."""
    with warm():
        yield


@pytest.fixture
def cold(monkeypatch):
    """As outside every `warm` block, although the tests run in one."""
    monkeypatch.setattr(process, "_blocks", 0)
    monkeypatch.setattr(process, "_kept", {})


def gone(pid, seconds=60):
    """Whether a process ends within some time."""
    for _ in range(int(seconds * 10)):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False
