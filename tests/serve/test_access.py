"""Who may connect, how fast and for how long; what the server says of itself."""

from __future__ import annotations

import json
import logging
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from served import Raw, served, settled
from wcsim.envs.remote import RemoteEnv
from wcsim.errors import ConfigError, RemoteError
from wcsim.serve.access import access_of
from wcsim.serve.limits import Limits

TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def server(folder):
    with served(folder) as running:
        yield running


def get(address, path, **headers):
    parts = urlsplit(address)
    line = HTTPConnection(parts.hostname, parts.port, timeout=10)
    line.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        line.putheader(name, value)
    line.endheaders()
    answer = line.getresponse()
    body = answer.read().decode()
    line.close()
    return answer.status, body, answer


def test_health_and_metrics(server):
    client = Raw(server[0])
    client.tell("step", session=client.opened(), actions=np.full((1, 2), 100.0))
    status, body, _ = get(server[0], "/health")
    assert (status, json.loads(body)["sessions"]) == (200, 1)
    status, body, _ = get(server[0], "/metrics")
    told = dict(line.split() for line in body.splitlines())
    assert status == 200
    assert float(told["wcsim_serve_steps"]) >= 1
    assert {"wcsim_serve_step_ms_p50", "wcsim_serve_step_ms_p95", "wcsim_serve_cache_hit_rate",
            "wcsim_serve_waiting", "wcsim_serve_lanes_per_forward"} <= set(told)
    client.socket.close()


def test_host_and_origin(server):
    address = server[0]
    assert get(address, "/", Host="evil.example")[0] == 400
    assert get(address, "/metrics", Host="evil.example:80")[0] == 403
    status, _, answer = get(address, "/")
    assert status == 200
    assert "default-src 'none'" in answer.getheader("Content-Security-Policy")
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus):
            connect(f"{address}/session", additional_headers=headers).__enter__()
    Raw(address, additional_headers={"Origin": address.replace("ws://", "http://")}).socket.close()


def test_a_token_is_needed_and_never_logged(folder, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, logger="wcsim")
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    monkeypatch.delenv("WCSIM_TOKEN", raising=False)
    with served(folder, token=TOKEN) as (address, _):
        for token in (None, "wrong"):
            with pytest.raises(RemoteError, match="403"):
                RemoteEnv(address, token=token)
        env = RemoteEnv(address, token=TOKEN)
        env.reset(seed=0)
        env.close()
        monkeypatch.setenv("WCSIM_TOKEN", TOKEN)
        RemoteEnv(address).close()
        assert get(address, "/")[0] == 403
        assert get(address, "/?token=wrong")[0] == 403
        assert get(address, "/metrics")[0] == 403
        status, _, answer = get(address, f"/?token={TOKEN}&seed=3")
        assert (status, answer.getheader("Location")) == (303, "/?seed=3")
        cookie = answer.getheader("Set-Cookie").split(";")[0]
        assert get(address, "/", Cookie=cookie)[0] == 200
        Raw(address, additional_headers={"Cookie": cookie}).socket.close()
    assert TOKEN not in caplog.text
    assert "refused a connection" in caplog.text


def test_another_host_needs_a_token():
    with pytest.raises(ConfigError, match="give a --token"):
        access_of("0.0.0.0", None, [])
    with pytest.raises(ConfigError, match="at least 16"):
        access_of("127.0.0.1", "short", [])
    access = access_of("0.0.0.0", TOKEN, ["robots.example"])
    assert access.wrong_host({"host": "robots.example:1"}) is None
    assert access.wrong_host({"host": "192.0.2.1:1"}) is None
    assert access.wrong_host({"host": "other.example:1"}) is not None
    assert access.wrong_host({"host": "[::1"}) is not None
    with pytest.raises(ConfigError, match="lanes must be above 0"):
        Limits(lanes=0)


def test_quiet_connections_are_dropped(folder):
    with served(folder, idle_s=0.3) as (address, service):
        client = Raw(address)
        client.opened()
        with pytest.raises(ConnectionClosed) as caught:
            client.socket.recv(timeout=20)
        assert caught.value.rcvd.reason == "quiet or slow for too long"
        settled(service)


def test_fast_clients_wait(folder):
    with served(folder, rate=50.0) as (address, _):
        client = Raw(address)
        number, began = client.opened(), time.monotonic()
        for _ in range(80):
            client.tell("look", session=number)
        assert time.monotonic() - began > 0.5
        client.socket.close()
