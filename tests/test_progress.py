"""Progress without a terminal: few lines, with the time left."""

from __future__ import annotations

from io import StringIO
from time import sleep

import pytest
from rich.console import Console

from wcsim import progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_come_at_once_and_then_seldom(capsys):
    clock = Clock()
    say = progress._Lines("race", clock)
    for second in range(70):
        clock.now = float(second)
        say(f"at {second}")
    assert capsys.readouterr().err.splitlines() == [
        "0:00:00 race: at 0", "0:00:30 race: at 30", "0:01:00 race: at 60"]


def test_time_left_counts_from_where_a_run_was_taken_up():
    clock, said = Clock(), []
    tell = progress._Estimate(said.append, clock)
    tell(6, 10)
    clock.now = 20.0
    tell(8, 10)
    tell(10, 10)
    assert said == ["6 of 10", "8 of 10, 0:00:20 left", "10 of 10"]


@pytest.mark.parametrize("what", ["counting", "saying"])
def test_elsewhere_than_on_a_terminal(what, capsys):
    with getattr(progress, what)("work") as tell:
        tell(*{"counting": (1, 2), "saying": ("half",)}[what])
    assert capsys.readouterr().err.startswith("0:00:00 work: ")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What is written to a terminal 200 columns wide."""
    screen = StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=200))
    return screen


def test_brackets_stay_on_a_terminal(monkeypatch):
    screen = on_a_terminal(monkeypatch)
    with progress.saying("race [red]") as say:
        say("cache [bold]x[/] of [/nothing] :warning:")
        sleep(0.2)  # a spinner is redrawn 12 times a second
    assert "race [red]" in screen.getvalue()
    assert "cache [bold]x[/] of [/nothing] :warning:" in screen.getvalue()
    screen = on_a_terminal(monkeypatch)
    with progress.counting("goals [red] [/]") as tell:
        tell(1, 2)
    assert "goals [red] [/]" in screen.getvalue()
