"""A rollout that is written as recordings, read back, and played again as a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wcsim.agents.policies import PerLane, RandomPolicy
from wcsim.data.check import check
from wcsim.data.lerobot_writer import LeRobotWriter
from wcsim.data.recordings import open_recordings
from wcsim.envs.recordings import RecordingsTask
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.rollout.dataset import DatasetSink, recordings_spec
from wcsim.rollout.engine import opening, rollout
from wcsim.rollout.places import TruthPlace
from wcsim.rollout.sinks import Recorder, listen


def test_a_rollout_is_a_dataset_and_plays_again(tmp_path: Path) -> None:
    task = make_task("pusht", start="near")
    pairs = [opening(task, number, 700_001 + number) for number in range(3)]
    policy = PerLane([RandomPolicy(task.action, hold=2, seed=lane) for lane in range(3)])
    place, recorder = TruthPlace(task), Recorder()
    with LeRobotWriter(tmp_path / "set", recordings_spec(task), rewards=True, success=True) as writer:
        listen(rollout(task, {"truth": place}, policy, [episode for _, episode in pairs], [start for start, _ in pairs],
                       acts_in="truth", max_steps=8), [DatasetSink(writer, task, place="truth"), recorder])
    place.close()
    read = open_recordings(tmp_path / "set")
    assert (read.spec.action.names, read.spec.action.units) == (task.action.names, task.action.units)
    assert check(read) == []
    by_seed = {read.episode(number).seed: number for number in range(3)}
    for kept in recorder.episodes:
        number = by_seed[kept.episode.seed]
        episode, track = read.episode(number), kept.places["truth"]
        np.testing.assert_array_equal(episode.actions, np.array(kept.actions, np.float32))
        np.testing.assert_array_equal(read.frames(number, "pixels", range(episode.frames)), np.stack(track.frames))
        np.testing.assert_allclose(episode.state[-1], track.scored[-1].values["agent"][0], rtol=1e-6)  # type: ignore[index]
        assert episode.success == bool(track.scored[-1].success[0])
        assert episode.instruction == task.description
    again = RecordingsTask(path=str(tmp_path / "set"))
    assert (again.action.low, again.action.high) == (task.action.low, task.action.high)
    looks, actions = play_exploration(again, 0, 8)
    np.testing.assert_array_equal(actions, read.episode(0).actions)
    np.testing.assert_array_equal(np.stack([look.pixels for look in looks]), read.frames(0, "pixels", range(9)))
