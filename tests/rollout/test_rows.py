"""Rows for trackers: the documented program as it stands, and what its rows hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from wcsim.agents.policies import PerLane, RandomPolicy
from wcsim.cache.fidelity import parse_fidelity
from wcsim.envs.pusht import PushT
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorder, RowSink, listen
from wcsim.world.world import World

PAGE = Path(__file__).parents[2] / "docs/how-to/track-runs.md"


def play(folder, *sinks, steps=3):
    task, world = PushT(), World.load(folder)
    fidelity = parse_fidelity({"steps": 2}).build(world.spec)
    openings = [opening(task, number=number, seed=number) for number in (5, 6)]
    policy = PerLane([RandomPolicy(task.action) for _ in openings])
    places = {"truth": TruthPlace(task), "world": WorldPlace(task, world, fidelity)}
    listen(rollout(task, places, policy, [episode for _, episode in openings], [start for start, _ in openings],
                   acts_in="world", max_steps=steps), sinks)
    for place in places.values():
        place.close()


def test_rows_are_what_happened(folder):
    rows, recorder = [], Recorder()
    sink = RowSink(rows.append, state=PushT().state)
    play(folder, sink, recorder)
    assert [row["row"] for row in rows] == list(range(8))
    assert all(type(value) is float and np.isfinite(value) for row in rows for value in row.values())
    for kept in recorder.episodes:
        mine = [row for row in rows if row["episode"] == kept.episode.number]
        steps, (end,) = mine[:3], mine[3:]
        assert [row["step/reward"] for row in steps] == kept.rewards
        assert [row["step/number"] for row in steps] == [0, 1, 2]
        assert end == {"row": end["row"], "episode": float(kept.episode.number), "episode/steps": 3.0,
                       "episode/return": pytest.approx(sum(kept.rewards)), "episode/success": 0.0}
        world, truth = kept.places["world"], kept.places["truth"]
        for row, seen, true in zip(steps, world.scored[1:], truth.scored[1:], strict=True):
            errors = PushT().state.errors(seen.values, true.values)
            known = {f"step/world/{name}": error[0] for name, error in errors.items() if np.isfinite(error[0])}
            assert {name: row[name] for name in known} == known
            assert {"step/world/imagine_ms", "step/world/skipped", "step/truth/progress"} <= row.keys()
    play(folder, sink, steps=1)
    assert [row["row"] for row in rows[8:]] == [8, 9, 10, 11]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")  # its actions are random
def test_the_page_runs_as_it_stands(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.count("step/world/progress") == 5
