"""Every error that wcsim raises on purpose.  Messages say what was given, what is allowed and what to do."""

from __future__ import annotations


class WcsimError(Exception):
    """Base of all errors below."""


class ConfigError(WcsimError, ValueError):
    """A configuration names something unknown or holds a value out of range."""


class CheckpointError(WcsimError):
    """A world on disk does not match its own description."""


class ActionError(WcsimError, ValueError):
    """An action is not finite, out of range or mis-shaped."""


class NotFiniteError(WcsimError):
    """A world makes values that are not finite: its weights are damaged, or the fidelity is too much for them."""


class SnapshotError(WcsimError):
    """A snapshot does not belong here, or cannot be taken yet."""


class DataError(WcsimError, ValueError):
    """Recordings are not what they say they are, or not what is needed.

    kind: of the fault, one of `wcsim.data.check.KINDS`.  episode: its id, empty where all are concerned.
    """

    def __init__(self, message: str, *, kind: str = "missing", episode: str = "") -> None:
        super().__init__(message)
        self.kind, self.episode = kind, episode


class GuardrailError(WcsimError):
    """A guardrail that the caller put up refuses a prompt or imagined frames."""


class RunError(WcsimError):
    """A run directory cannot be used as asked."""


class RemoteError(WcsimError):
    """A policy server cannot be reached, or says something else than actions."""
