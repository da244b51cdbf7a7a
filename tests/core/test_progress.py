"""What is shown of a run, what its log keeps, and how long it says to go on."""

import re
import signal
import subprocess
import sys

import pytest

from limbeck.core.course import EXPECTED, Course, Part
from limbeck.core.errors import UserError
from limbeck.core.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def trained(course, clock, stage, epochs, each, *, first=1.0):
    """A stage of so many epochs that take `each` seconds, the first step as long as `first` before them."""
    course.enter(stage)
    clock.now += first
    course.reach(0.001)
    for epoch in range(1, epochs + 1):
        clock.now += each
        course.reach(epoch)
    course.leave(stage)


# --- how long ------------------------------------------------------------------------------------

RUN = [
    Part("teacher", 10, ("teacher",)),
    Part("student-seed0", 20, ("alone",)),
    Part("distilled-seed0", 20, ("taught",)),
    Part("student-seed1", 20, ("alone",)),
    Part("distilled-seed1", 20, ("taught",)),
    Part("measured", 30, (EXPECTED,)),
]


def test_nothing_is_said_of_the_whole_before_every_pace_is_known(clock):
    course = Course(clock)
    assert course.left() is None
    course.plan(RUN)
    assert (course.where, course.left()) == ("", None)
    course.enter("teacher")
    assert (course.where, course.left(), course.left_here()) == ("stage 1 of 6", None, None)
    course.reach(0.1)
    clock.now += 6
    course.reach(3.1)
    assert course.left() is None
    assert course.left_here() == pytest.approx(6.9 * 2)  # 2 seconds an epoch since the first step
    course.leave("teacher")
    assert course.left_here() == 0


def test_the_whole_is_what_is_left_of_every_stage_at_the_pace_of_those_like_it(clock):
    course = Course(clock)
    course.plan(RUN)
    trained(course, clock, "teacher", 10, 7.0)
    trained(course, clock, "student-seed0", 20, 1.0, first=0.0)
    course.enter("distilled-seed0")
    course.reach(1)
    clock.now += 12
    course.reach(5)
    # 3 seconds an epoch here; then 20 of 1 second, 20 of 3, and what measuring should take.
    assert course.left() == pytest.approx(15 * 3 + 20 * 1 + 20 * 3 + 30)
    assert course.where == "stage 3 of 6"


def test_a_stage_like_one_before_goes_at_its_pace_until_it_has_its_own(clock):
    course = Course(clock)
    course.plan(RUN)
    for stage in ("teacher", "student-seed0", "distilled-seed0"):
        trained(course, clock, stage, 20, 2.0, first=0.0)
    course.enter("student-seed1")
    course.reach(1)
    clock.now += 10
    course.reach(2)  # a tenth, in which an epoch took five times as long
    assert course.left_here() == pytest.approx(18 * 2)
    clock.now += 30
    course.reach(5)
    assert course.left_here() == pytest.approx(15 * 10)


def test_what_was_done_before_tells_its_pace_and_counts_as_done(clock):
    course = Course(clock)
    course.plan(RUN, over=["teacher", "student-seed0", "distilled-seed0", "distilled-seed1"])
    course.leave("student-seed0", seconds=40, work=20)
    course.leave("distilled-seed0", seconds=60, work=20)
    assert course.left() == pytest.approx(20 * 2 + 30)  # distilled-seed1 is done
    course.enter("student-seed1")
    course.skip(15)  # by the run before
    assert course.where == "stage 4 of 6"
    assert course.left() == pytest.approx(5 * 2 + 30)


def test_an_early_stop_and_what_is_made_once_do_not_change_the_pace(clock):
    course = Course(clock)
    course.plan([Part("distilled-seed0", 20, ("taught",)), Part("distilled-seed1", 20, ("taught",))])
    course.enter("distilled-seed0")
    clock.now += 500
    course.excuse(500)  # the teacher was asked
    for epoch in range(1, 6):
        clock.now += 2
        course.reach(epoch)
    course.skip(20)
    assert course.left_here() == 0
    course.leave("distilled-seed0")
    assert course.left() == pytest.approx(20 * 2)


def test_steps_of_a_chain_are_one_stage_and_a_search_is_known_after_a_trial(clock):
    course = Course(clock)
    course.plan([Part("pruned-seed0", 4, ("recovery",)), Part("budget", 30, ("search",))])
    course.enter("pruned-seed0/step1")
    course.reach(1)
    clock.now += 1
    course.reach(2)
    course.leave("pruned-seed0/step1")
    course.enter("pruned-seed0")
    assert (course.where, course.left_here()) == ("stage 1 of 2", pytest.approx(2))
    course.leave("pruned-seed0")
    course.enter("budget")
    assert course.left() is None
    clock.now += 5
    course.reach(10)
    clock.now += 50
    course.reach(20)
    assert course.left() == pytest.approx(50)


def test_of_what_nobody_knows_nothing_is_said(clock):
    course = Course(clock)
    course.plan([Part("forest", None), Part("measured", 30, (EXPECTED,))])
    course.enter("forest")
    clock.now += 100
    assert course.left() is None
    course.leave("forest")
    assert course.left() == 30


def test_a_long_first_epoch_is_believed_after_a_while(clock):
    course = Course(clock)
    course.plan([Part("teacher", 2, ("teacher",))])
    course.enter("teacher")
    course.reach(0.01)
    clock.now += 5
    course.reach(0.02)
    assert course.left() is None
    clock.now += 45
    course.reach(0.11)
    assert course.left() == pytest.approx(1.89 * 500)


# --- what is shown -------------------------------------------------------------------------------


def test_progress_is_lines_where_nobody_looks(capsys):
    with Progress().bar("student", 2) as advance:
        advance(1, "epoch 1")
        advance(2, "epoch 2")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "student" in shown.err
    assert "epoch 2" in shown.err
    assert "epoch 1" not in shown.err
    with Progress(quiet=True).bar("student", 1):
        pass
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_it_is(capsys):
    with Progress(every=0).bar("student", 2) as advance:
        advance(1, "epoch [1]")
        advance(2, "epoch [2]")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "student: 50%  epoch [1]"
    assert lines[1].endswith("epoch [2]")
    assert len(lines) == 2


def test_a_line_says_the_stage_and_the_time_that_is_left(capsys, clock):
    progress = Progress(every=0)
    progress.course = Course(clock)
    progress.course.plan([Part("a", 10, ("net",)), Part("b", 40, ("net",))])
    progress.course.enter("a")
    with progress.bar("a", 100, work=10) as advance:
        advance(10, "epoch 1/10")
        clock.now += 9 * 20
        advance(99, "epoch 10/10")
    progress.course.leave("a")
    progress.course.enter("b")
    with progress.bar("b", 40, start=39, work=40):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "stage 1 of 2, a: 10%  epoch 1/10"
    assert lines[1].startswith("stage 1 of 2, a: 99%  epoch 10/10  about 14 min left")  # 41 left of 20 s and a bit
    assert re.fullmatch(r"stage 1 of 2, a: \d+\.\d s  epoch 10/10  about 13 min left", lines[2])
    assert re.fullmatch(r"stage 2 of 2, b: \d+\.\d s", lines[3])  # nothing is left


def test_a_terminal_sees_the_stage_the_note_and_the_time(capsys):
    """Drawn by itself, since a test has no terminal."""
    from rich.console import Console

    progress = Progress()
    progress.course.plan([Part("pruned-low-rank-alone-seed0", 10, ("net",)), Part("b", 90, ("net",))])
    progress.course.leave("b", seconds=900, work=90)
    progress.course.plan([Part("pruned-low-rank-alone-seed0", 10, ("net",)), Part("b", 90, ("net",))])
    progress.course.enter("pruned-low-rank-alone-seed0")
    from limbeck.core.progress import _Bar

    picture = progress._picture(_Bar("pruned-low-rank-alone-seed0", 5, 10, "epoch 5/10  loss 0.1  val accuracy 0.9"))
    narrow = Console(width=80, file=sys.stdout)
    narrow.print(picture)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("stage 1 of 2  pruned-low-rank-alone-seed0  ")
    assert first.rstrip().endswith("about 17 min left")
    assert second.rstrip() == "epoch 5/10  loss 0.1  val accuracy 0.9"


# --- the log -------------------------------------------------------------------------------------

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


def kept(path):
    lines = path.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(f"^{STAMP}", "", line) for line in lines]


def test_a_log_keeps_what_is_shown_and_what_a_quiet_run_does_not_show(tmp_path, capsys):
    path = tmp_path / "run.log"
    for quiet in (False, True):
        progress = Progress(quiet=quiet)
        progress.say("before")
        with progress.kept(path, "run tiny"):
            progress.say("note: [red]a[/red]\n  hint: b")
            with progress.bar("teacher", 1) as advance:
                advance(1, "epoch 1/1")
        progress.say("after")
    lines = kept(path)
    first, second = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    for own in (first, second):
        assert own[:3] == ["--- run tiny ---", "note: [red]a[/red]", "  hint: b"]
        assert re.fullmatch(r"teacher: \d\.\d s  epoch 1/1", own[3])
        assert re.fullmatch(r"finished in \d\.\d s", own[4])
        assert len(own) == 5
    assert "teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("no such file", where="x.npz", hint="look"), ["failed: x.npz: no such file", "  hint: look"]),
        (KeyboardInterrupt(), ["stopped by Ctrl-C"]),
    ],
)
def test_a_log_says_how_a_run_ended(tmp_path, error, said):
    progress = Progress(quiet=True)
    with pytest.raises(type(error)), progress.kept(tmp_path / "run.log", "run tiny"):
        raise error
    assert kept(tmp_path / "run.log") == ["--- run tiny ---", *said]


def test_a_log_keeps_the_traceback_of_what_nobody_foresaw(tmp_path):
    progress = Progress(quiet=True)
    with pytest.raises(ZeroDivisionError), progress.kept(tmp_path / "run.log", "run tiny"):
        progress.say(str(1 / 0))
    lines = kept(tmp_path / "run.log")
    assert lines[1] == "failed: Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_kill_loses_nothing_and_the_log_goes_on_behind_it(tmp_path):
    path = tmp_path / "run.log"
    code = f"""
import os, signal
from pathlib import Path
from limbeck.core.progress import Progress
progress = Progress()
with progress.kept(Path({str(path)!r}), "run tiny"):
    for number in range(100):
        progress.say(f"line {{number}}")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert kept(path) == ["--- run tiny ---", *(f"line {number}" for number in range(100))]
    with Progress(quiet=True).kept(path, "run tiny"):
        pass
    assert kept(path)[101] == "--- run tiny ---"


def test_a_log_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "run.log").mkdir()
    with (
        pytest.raises(UserError, match=r"run\.log: cannot be written"),
        Progress(quiet=True).kept(tmp_path / "run.log", "run tiny"),
    ):
        pass
