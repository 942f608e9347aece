"""Several worlds behind one server, and sessions that change how well they imagine."""

from __future__ import annotations

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from served import FIDELITY, Raw, served
from wcsim.errors import ConfigError
from wcsim.messages import unpack


def hello_of(address: str, world: str):
    with connect(f"{address}/session?world={world}") as socket:
        return unpack(socket.recv())


def test_clients_name_a_world_of_those_that_are_served(folder):
    with served(f"{folder} pendulum-64") as (address, _):
        told = Raw(address).hello
        assert (told["world"], told["worlds"]) == ("tiny", ["tiny", "pendulum-64"])
        told = hello_of(address, "pendulum-64")
        assert (told["world"], told["driving"]["axes"], told["driving"]["places"]) == ("pendulum-64", ["x"], [False])
        for other in ("pusht-96", "../tiny", ""):
            with pytest.raises(ConnectionClosed) as caught:
                hello_of(address, other)
            assert "the worlds served are tiny, pendulum-64" in caught.value.rcvd.reason


def test_a_world_is_served_once(folder):
    with pytest.raises(ConfigError, match="once"), served(f"{folder} {folder}"):
        pass


def test_another_fidelity_from_here_on_is_that_of_a_session_opened_with_it(folder):
    action = np.full((1, 2), 300.0)
    with served(folder) as (address, _):
        client = Raw(address)
        number = client.opened()
        client.tell("step", session=number, actions=action)
        here = client.tell("snapshot", session=number, data=True)["result"]
        finer = {"steps": 5, "cache": "none"}
        assert client.tell("fidelity", session=number, fidelity=finer)["result"] == {}
        changed = client.tell("step", session=number, actions=action)["result"]["ticks"][0]["pixels"]
        other = client.tell("open", fidelity=finer)["result"]["session"]
        client.tell("reset", session=other, seed=1)
        pixels = []
        for session, fidelity in ((other, finer), (other, FIDELITY)):
            client.tell("fidelity", session=session, fidelity=fidelity)
            client.tell("restore", session=session, **here)
            pixels.append(client.tell("step", session=session, actions=action)["result"]["ticks"][0]["pixels"])
        assert np.array_equal(changed, pixels[0])
        assert not np.array_equal(changed, pixels[1])
        assert "allows" in client.tell("fidelity", session=number, fidelity={"steps": 65})["error"]["message"]
        client.socket.close()
