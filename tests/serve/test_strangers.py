"""What strangers send: refused with a reason, while honest sessions go on and nothing leaks."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from served import FIDELITY, Raw, served, settled
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.remote import RemoteEnv
from wcsim.envs.snapshots import checksum, pack_snapshots
from wcsim.errors import SnapshotError
from wcsim.messages import pack


@pytest.fixture(scope="module")
def server(folder: Any) -> Any:
    with served(folder, message_bytes=2**20, sessions=6, sessions_each=4) as running:
        yield running


def nan() -> Any:
    return np.array([[np.nan, 1]], np.float32)


MALFORMED = [
    (b"", "no msgpack message"),
    (bytes(range(256)), "no msgpack message"),
    (msgpack.packb([1]), "a request is a mapping"),
    (pack({"id": 0}), "op is one of open, reset"),
    (pack({"id": 0, "op": "__init__", "session": 0}), "op is one of"),
    (pack({"op": "open"}), "id is an integer"),
    (pack({"id": -1, "op": "open"}), "id is an integer"),
    (pack({"id": 0, "op": "open", "world": "../etc"}), "open has no field 'world'"),
    (pack({"id": 0, "op": "open", "place": "moon"}), "place is world or truth"),
    (pack({"id": 0, "op": "open", "fidelity": {"cache": np.zeros(2)}}), "fidelity is a mapping"),
    (pack({"id": 0, "op": "open", "fidelity": {"guidance": float("nan")}}), "fidelity is a mapping"),
    (pack({"id": 0, "op": "reset", "session": 0}), "reset needs seed"),
    (pack({"id": 0, "op": "reset", "session": 0, "seed": 1.0}), "seed is an integer"),
    (pack({"id": 0, "op": "reset", "session": 0, "seed": True}), "seed is an integer"),
    (pack({"id": 0, "op": "reset", "session": 0, "seed": 1, "start": {
        "frames": np.zeros((1, 8, 8, 3), np.uint8), "actions": np.zeros((0, 2))}}), "frames are uint8"),
    (pack({"id": 0, "op": "reset", "session": 0, "seed": 1, "start": {
        "frames": np.zeros((3, 96, 96, 3), np.uint8), "actions": np.zeros((1, 2))}}), "T - 1 actions"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": nan()}), "target_x at (0,) = nan is not finite"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.array([[1.0, 513.0]])}), "is out of range"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.zeros((0, 2))}), "k at least 1"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.zeros((65, 2))}), "at most 64"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.zeros(2)}), "actions are an array"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": [[1.0, 2.0]]}), "actions are an array"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.zeros((1, 2)), "shown": 65}), "shown is an integer"),
    (pack({"id": 0, "op": "step", "session": 0, "actions": np.zeros((1, 2)), "ahead": 1}), "a flag is true or false"),
    (pack({"id": 0, "op": "branch", "session": 0, "count": 10**6}), "count is an integer from 0 to 4"),
    (pack({"id": 0, "op": "film", "sessions": "all", "names": []}), "sessions are a list"),
    (pack({"id": 0, "op": "film", "sessions": [0], "names": ["../x"]}), "names are words"),
    (pack({"id": 0, "op": "film", "sessions": [0], "names": []}), "film needs a name for each session"),
    ("text", "requests are binary"),
]


@pytest.mark.parametrize(("message", "why"), MALFORMED)
def test_a_malformed_message_closes_its_connection_alone(server: Any, message: Any, why: Any) -> None:
    address, service = server
    honest, stranger = Raw(address), Raw(address)
    mine, theirs = honest.opened(), stranger.opened()
    assert theirs == mine == 0
    code, reason = stranger.closed(message)
    assert code == 1007
    assert why in reason
    answer = honest.tell("step", session=mine, actions=np.full((1, 2), 100.0))
    assert answer["result"]["ticks"][0]["pixels"].shape == (96, 96, 3)
    honest.socket.close()
    settled(service)


def test_a_long_message_closes(server: Any) -> None:
    assert Raw(server[0]).closed(bytes(2**20 + 1))[0] == 1009
    settled(server[1])


def test_refusals_leave_the_session_open(server: Any) -> None:
    client = Raw(server[0])
    assert client.tell("step", session=3, actions=np.zeros((1, 2)))["error"]["message"] == "session 3 is not open"
    number = client.tell("open", fidelity=FIDELITY)["result"]["session"]
    assert "not been reset" in client.tell("step", session=number, actions=np.zeros((1, 2)))["error"]["message"]
    client.tell("reset", session=number, seed=0)
    for fidelity in ({"steps": 10**6}, {"cache": {"kind": "x"}}, {"nope": 1}, {"steps": "many"}):
        assert client.tell("open", fidelity=fidelity)["error"]["kind"] == "ConfigError"
    assert "not kept" in client.tell("restore", session=number, snapshot=99)["error"]["message"]
    assert "more ticks" in client.tell("look", session=number, shown=2)["error"]["message"]
    assert "no recorded" in client.tell("film", sessions=[number], names=["a"])["error"]["message"]
    for data in (b"", b"x" * 100, b"\x00" * 64):
        told = client.tell("restore", session=number, tensors=data, description='{"format": 2, "snapshots": [{}]}')
        assert told["error"]["kind"] == "SnapshotError"
    assert client.tell("look", session=number, latents=True)["result"]["latents"] is None
    assert client.tell("close", session=number)["result"] == {}
    assert "error" in client.tell("close", session=number)
    client.socket.close()
    settled(server[1])


def test_sessions_are_counted(server: Any) -> None:
    one, other = Raw(server[0]), Raw(server[0])
    for _ in range(4):
        one.opened()
    assert "no more sessions" in one.tell("open")["error"]["message"]
    assert "no more sessions" in other.tell("branch", session=other.opened(), count=2)["error"]["message"]
    assert "result" in other.tell("branch", session=0, count=1)
    one.socket.close()
    other.socket.close()
    settled(server[1])


def test_forged_snapshots_are_refused(server: Any, folder: Any) -> Any:
    local = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    local.reset(seed=1)
    local.expect(np.full((3, 2), 100.0))
    local.step(np.full(2, 100.0))
    snapshot: Any = local.snapshot()
    env = RemoteEnv(server[0], fidelity=FIDELITY)
    env.reset(seed=1)

    def restored(**changes: Any) -> Any:
        tensors, description = pack_snapshots([snapshot])
        import torch
        from safetensors.torch import load, save

        parts = load(tensors)
        for name, value in changes.items():
            parts[f"0.{name.replace('__', '.')}"] = value
        told, forged = json.loads(description), save({k: torch.as_tensor(v) for k, v in parts.items()})
        told["sha256"] = checksum(forged, told["snapshots"])
        return env.session.ask("restore", tensors=forged, description=json.dumps(told))

    restored()
    import torch

    bad = {
        "state__latents": torch.zeros(1), "state__frame": torch.tensor([-1]), "state__length": torch.tensor([99]),
        "state__seed": torch.tensor([-5]),
        "after__latents": torch.full_like(snapshot.lane.ahead.after.latents, torch.nan),
        "ahead__actions": torch.full((3, 2), 1e9), "ahead__frames": torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        "ahead__latents": torch.zeros(2), "trace__hit": torch.zeros(1, dtype=torch.bool), "pixels": torch.zeros(2),
        "robot": torch.zeros(99), "latent": torch.zeros(1, dtype=torch.int64),
    }
    for name, value in bad.items():
        with pytest.raises(SnapshotError, match="not of this world|not finite|out of range|refused|not whole"):
            restored(**{name: value})
    env.close()


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_sessions_share_forwards_and_keep_their_pixels(folder: Any, device: str) -> Any:
    """Eight at once, on one core or two, each as a local run has it to the last bit."""
    def play(seed: Any) -> Any:
        env = RemoteEnv(address, fidelity=settings)
        rng, seen = np.random.default_rng(seed), [env.reset(seed=seed)[0]["pixels"]]
        seen += [env.step(rng.uniform(0, 512, 2).astype(np.float32))[0]["pixels"] for _ in range(6)]
        env.close()
        return np.stack(seen)

    settings = {"steps": 4, "cache": {"preset": "worldcache", "threshold": 0.3}}
    local = ImaginedEnv("pusht", folder, fidelity=settings)
    with served(folder, device=device, wait_ms=50.0) as (address, service), ThreadPoolExecutor(8) as pool:
        together = list(pool.map(play, range(8)))
        assert service.meter.steps == 48
        assert service.meter.forwards < 30
        settled(service)
    for seed, frames in enumerate(together):
        rng = np.random.default_rng(seed)
        assert np.array_equal(frames[0], local.reset(seed=seed)[0]["pixels"])
        for frame in frames[1:]:
            assert np.array_equal(frame, local.step(rng.uniform(0, 512, 2).astype(np.float32))[0]["pixels"])


def test_the_truth_beside_the_world_and_a_film(server: Any) -> None:
    client = Raw(server[0])
    world, truth = client.opened(record=True), client.opened(record=True, place="truth")
    for number in (world, truth):
        client.tell("reset", session=number, seed=3, snapshot=True)
    moves = np.random.default_rng(0).uniform(0, 512, (4, 2))
    kept = []
    for move in moves:
        for number in (world, truth):
            told = client.tell("step", session=number, actions=move[None], snapshot=True)["result"]
        kept.append(told["snapshot"])
        there = told["ticks"][0]["pixels"]
    assert client.tell("look", session=truth)["result"]["pixels"].tobytes() == there.tobytes()
    for number in (world, truth):
        client.tell("restore", session=number, snapshot=kept[1])
    again = [client.tell("step", session=truth, actions=move[None])["result"]["ticks"] for move in moves[2:]]
    assert np.array_equal(again[-1][0]["pixels"], there)
    for move in moves[2:]:
        client.tell("step", session=world, actions=move[None])
    made = client.tell("film", sessions=[world, truth], names=["cached", "truth"])["result"]
    assert made["mp4"][4:8] == b"ftyp"
    import io

    with np.load(io.BytesIO(made["npz"])) as arrays:
        assert arrays["frames_truth"].shape == arrays["frames_cached"].shape == (5, 96, 96, 3)
        assert np.array_equal(arrays["actions"], moves.astype(np.float32))
    client.socket.close()
