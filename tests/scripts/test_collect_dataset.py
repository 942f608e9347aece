"""Collected datasets: what is in them, resuming, and the seeds that are refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from collect_dataset import collect, seed_range
from wcsim.data.recordings import open_recordings
from wcsim.envs.tasks import make_task, play_exploration


def test_a_dataset_holds_the_exploration_of_its_seeds(tmp_path: Path) -> None:
    collect(tmp_path / "set", "pendulum", range(700_000, 700_002), 5)
    recordings = open_recordings(tmp_path / "set")
    assert [row.frames for row in recordings.episodes] == [6, 6]
    seen, actions = play_exploration(make_task("pendulum"), 700_001, 5)
    episode = recordings.episode(1)
    assert episode.seed == 700_001
    np.testing.assert_array_equal(episode.actions, actions.astype(np.float32))
    camera = recordings.spec.cameras.cameras[0].name
    np.testing.assert_array_equal(recordings.frames(1, camera, range(6)), [look.pixels for look in seen])
    robot = seen[3].estimate.values
    assert episode.state is not None
    np.testing.assert_allclose(episode.state[3], np.concatenate([robot["tip"][0], robot["angle"][0]]), rtol=1e-6)


@pytest.mark.parametrize("text", ["", "5", "3:3", "5:2", "-1:4", "a:b", "899999:900001"])
def test_ranges_of_seeds(text: str) -> None:
    assert seed_range("2:7") == range(2, 7)
    assert seed_range("899990:900000").stop == 900_000
    with pytest.raises(argparse.ArgumentTypeError, match=r"FIRST:END|reserved"):
        seed_range(text)
