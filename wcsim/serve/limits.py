"""What a server allows.  Easy to get wrong: a limit that is not here does not exist, so each has a default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from wcsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """lanes: in one forward.  wait_ms: how long a step waits for the steps of other sessions.  sessions: open at once.
    sessions_each: of one connection.  connections: open at once.  message_bytes: of a request.  chunk: actions of a
    step.  start_frames: of a start or an anchor.  snapshots: kept on the server for a session, the oldest goes first.
    history: steps that a recorded session can give as a video.  denoise_steps: of a fidelity.  fidelities: different
    ones known.  rate: requests a second of a connection; faster ones wait.  pending: requests under way on a
    connection.  idle_s: after which a quiet connection is dropped.  send_s: that a client may take to read an answer.
    """

    lanes: int = 16
    wait_ms: float = 4.0
    sessions: int = 64
    sessions_each: int = 32
    connections: int = 64
    message_bytes: int = 32 * 2**20
    chunk: int = 64
    start_frames: int = 64
    snapshots: int = 64
    history: int = 1_000
    denoise_steps: int = 64
    fidelities: int = 16
    rate: float = 1_000.0
    pending: int = 64
    idle_s: float = 600.0
    send_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ConfigError(f"{field.name} must be above 0, got {getattr(self, field.name)}")
