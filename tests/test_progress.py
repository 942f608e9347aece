"""Progress without a terminal: few lines, with the time left."""

import pytest

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
