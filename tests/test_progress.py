"""Progress without a terminal: few lines, with the time left; on one, a bar that knows the count and the text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from wcsim.progress import Bar, Lines, progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_once_and_then_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines("race", clock)
    for second in range(70):
        clock.now = float(second)
        lines.say(f"at {second}")
    assert capsys.readouterr().err.splitlines() == [
        "0:00:00 race: at 0", "0:00:30 race: at 30", "0:01:00 race: at 60"]


def test_time_left_counts_from_where_a_run_was_taken_up(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines("episodes", clock)
    for clock.now, done in ((0.0, 6), (40.0, 8), (80.0, 10)):
        lines.count(done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "0:00:00 episodes: 6 of 10", "0:00:40 episodes: 8 of 10, 0:00:40 left", "0:01:20 episodes: 10 of 10"]


def test_elsewhere_than_on_a_terminal_it_is_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work") as shown:
        shown.count(1, 2)
        shown.say("dropped, since it comes too soon")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "0:00:00 work: 1 of 2\n")


def test_a_bar_takes_a_count_and_any_text() -> None:
    shown = Progress(console=Console(file=io.StringIO()), disable=True)
    bar = Bar(shown, "race")
    task = shown.tasks[0]
    assert (task.total, task.description) == (None, "race")
    bar.count(3, 12)
    bar.say("wcsim [threshold=0.1]")
    assert (task.completed, task.total, task.fields["count"]) == (3, 12, "3/12")
    assert task.description == "race: wcsim [threshold=0.1]"


def test_brackets_stay_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("wcsim.progress.Console", lambda stderr: Console(file=screen, force_terminal=True, width=200))
    with progress("race [red] [/]") as shown:
        shown.say("cache [bold]x[/] of [/nothing] :warning:")
        shown.count(1, 2)
    assert "race [red] [/]: cache [bold]x[/] of [/nothing] :warning:" in screen.getvalue()
