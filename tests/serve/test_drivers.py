"""Policies that take over, and recordings of what was driven."""

from __future__ import annotations

import io
from zipfile import ZipFile

import numpy as np
import pytest

from served import Raw, served
from wcsim.data.recordings import open_recordings
from wcsim.envs.tasks import make_task
from wcsim.errors import ConfigError
from wcsim.serve.drivers import drivers_in
from wcsim.serve.limits import Limits
from wcsim.serve.sessions import Host

EAST = np.array([[400.0, 256.0]])


def test_each_task_is_offered_what_fits_it(folder):
    assert Host(folder, Limits()).drivers.names == ["expert", "pusht-bc", "pusht-flow", "planner", "random", "hold"]
    assert Host("pendulum-64", Limits()).drivers.names == ["planner", "random", "hold"]


def test_given_drivers_must_fit(folder):
    policies = drivers_in("pusht_evaluate")
    assert "noisy 12" in Host(folder, Limits(), drivers=policies).drivers.names
    with pytest.raises(ConfigError, match="expert"):
        Host("pendulum-64", Limits(), drivers=policies)
    with pytest.raises(ConfigError, match="lists no policies"):
        drivers_in("train_cube")
    with pytest.raises(ConfigError, match="two drivers"):
        Host(folder, Limits(), drivers=[policies[0], policies[0]])


def test_a_driver_acts_within_bounds_and_begins_anew_after_a_hand(folder):
    with served(folder) as (address, _):
        client = Raw(address)
        number = client.opened()

        def act(driver):
            return client.tell("act", session=number, driver=driver)["result"]["action"]

        first = act("random")
        assert (first.shape, first.dtype) == ((1, 2), np.float32)
        for name in client.hello["drivers"]:
            assert ((act(name) >= 0) & (act(name) <= 512)).all(), name
        client.tell("reset", session=number, seed=1)
        played = [act("random")]
        for _ in range(5):
            client.tell("step", session=number, actions=played[-1])
            played.append(act("random"))
        assert not np.array_equal(played[0], played[-1])
        client.tell("step", session=number, actions=played[-1])
        client.tell("step", session=number, actions=EAST)
        assert np.array_equal(act("random"), played[0])
        assert "known: expert" in client.tell("act", session=number, driver="/etc/passwd")["error"]["message"]
        client.socket.close()


def drive(client, steps, *, undo=0):
    fields = {"record": True}
    number, truth = client.opened(**fields), client.tell("open", place="truth", **fields)["result"]["session"]
    client.tell("reset", session=truth, seed=1)
    for _ in range(steps):
        kept = [client.tell("step", session=one, actions=EAST, snapshot=True)["result"]["snapshot"]
                for one in (number, truth)]
    for _ in range(undo):
        for one in (number, truth):
            client.tell("step", session=one, actions=EAST)
        for one, snapshot in zip((number, truth), kept, strict=True):
            client.tell("restore", session=one, snapshot=snapshot)
    return [number, truth]


@pytest.mark.parametrize("keeps", [True, False])
def test_drives_become_a_dataset(folder, tmp_path, keeps):
    shelf = tmp_path / "shelf"
    with served(folder, recordings=shelf if keeps else None) as (address, _):
        client = Raw(address)
        assert client.hello["keeps"] is keeps
        for steps, of in ((3, "cached"), (5, "truth")):
            sessions = drive(client, steps, undo=1)
            told = client.tell("record", sessions=sessions, names=["cached", "truth"], of=of, name="mine")["result"]
        other = Raw(address)
        sessions = drive(other, 1)
        alone = other.tell("record", sessions=sessions, names=["cached", "truth"], of="truth", name="mine")["result"]
        assert alone["episodes"] == (3 if keeps else 1)
        other.socket.close()
        client.socket.close()
    assert told["episodes"] == 2
    assert told["mp4"][4:8] == b"ftyp"
    ZipFile(io.BytesIO(told["zip"])).extractall(tmp_path / "taken")
    assert (shelf / "drives/mine/0001.mp4").exists() is keeps
    for path in [tmp_path / "taken/mine", *([shelf / "datasets/mine"] if keeps else [])]:
        recordings = open_recordings(path)
        assert [row.frames for row in recordings.episodes][:2] == [4, 6]
        assert recordings.spec.action.names == ("target_x", "target_y")
        episode = recordings.episode(1)
        assert np.array_equal(episode.actions, np.repeat(EAST, 5, axis=0).astype(np.float32))
        truth = make_task("pusht").make_truth()
        truth.restore(make_task("pusht").start(1).truth)
        for _ in range(5):
            last = truth.step(EAST[0])
        camera = recordings.spec.cameras.cameras[0].name
        seen = recordings.frames(1, camera, [5])[0].astype(float)
        assert np.abs(seen - last.pixels).mean() < 6


def test_what_is_not_recorded(folder, tmp_path):
    with served(folder, recordings=tmp_path) as (address, _):
        client = Raw(address)
        number, named = client.opened(record=True), {"names": ["a"], "of": "a"}
        said = client.tell("record", sessions=[number], name="mine", **named)["error"]["message"]
        assert "no recorded episode" in said
        client.tell("step", session=number, actions=EAST)
        for name in ("../mine", "", "a/b", "." * 3, "x" * 41, ".new"):
            said = client.tell("record", sessions=[number], name=name, **named)["error"]["message"]
            assert "name is at most 40 letters" in said
        assert client.tell("record", sessions=[number], name="mine", **named)["result"]["episodes"] == 1
        client.socket.close()
    assert sorted(path.name for path in tmp_path.rglob("mine*")) == ["mine", "mine"]
    with served("pendulum-64", recordings=tmp_path) as (address, _):
        client = Raw(address)
        number = client.opened(record=True)
        client.tell("step", session=number, actions=np.zeros((1, 1)))
        said = client.tell("record", sessions=[number], name="mine", **named)["error"]["message"]
        assert "drives of task pusht" in said
        client.socket.close()
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"), served(folder, recordings=blocked):
        pass
