"""Where actions are played: in the truth, or in a world at some fidelity.  N lanes in lock-step.

Easy to get wrong: a place keeps only the lanes that are still going, so the actions of the next step are theirs alone.
Shapes: n lanes still going, A action, H W frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wcsim.envs.lanes import Imagination, Lane, Tick
from wcsim.envs.tasks import Start, Task, Truth, TruthFrame
from wcsim.estimate import Estimate
from wcsim.rollout.events import Seen
from wcsim.spans import Spans
from wcsim.types import Fidelity
from wcsim.world.world import World


class Place(Protocol):
    """N lanes, from `reset` on.  chunk: how many actions it can imagine together."""

    @property
    def chunk(self) -> int: ...

    def reset(self, starts: Sequence[Start], seeds: Sequence[int]) -> Seen:
        """Begin an episode per start, its noise numbered by its seed."""
        ...

    def step(self, actions: np.ndarray) -> Seen:
        """Play `[n, A]`."""
        ...

    def expect(self, actions: np.ndarray) -> None:
        """Receive actions `[n, k, A]` that are to come, those of the next step first; it may imagine them together."""
        ...

    def keep(self, lanes: np.ndarray) -> None:
        """Go on with these lanes alone (indices into the present ones)."""
        ...

    def close(self) -> None:
        """Release resources."""
        ...


class TruthPlace:
    """A simulator, or a recording, per lane.

    observed: whether a policy acts on what is seen here; the estimate is then made from pixels, as a policy in a world
    has it, and else taken from the state.  encode: frames `[n, H, W, 3]` to latents, for distances in latents.
    """

    chunk = 1

    def __init__(self, task: Task, *, observed: bool = True, encode: Callable[[np.ndarray], Tensor] | None = None
                 ) -> None:
        self._task, self._observed, self._encode = task, observed, encode
        self._truths: list[Truth] = []

    def reset(self, starts: Sequence[Start], seeds: Sequence[int]) -> Seen:
        """Restore every start."""
        self.close()
        self._truths = [self._task.make_truth() for _ in starts]
        return self._see([truth.restore(start.truth) for truth, start in zip(self._truths, starts, strict=True)], {})

    def step(self, actions: np.ndarray) -> Seen:
        """Simulate."""
        spans = Spans()
        with spans("truth"):
            looks = [truth.step(action) for truth, action in zip(self._truths, actions, strict=True)]
        return self._see(looks, spans.ms())

    def expect(self, actions: np.ndarray) -> None:
        """A simulator takes one action at a time."""

    def keep(self, lanes: np.ndarray) -> None:
        """Close the other simulators."""
        kept = [self._truths[lane] for lane in lanes.tolist()]
        for truth in self._truths:
            if all(truth is not other for other in kept):
                truth.close()
        self._truths = kept

    def close(self) -> None:
        """Close all simulators."""
        self.keep(np.arange(0))

    def _see(self, looks: Sequence[TruthFrame], spans_ms: dict[str, float]) -> Seen:
        frames, exact = np.stack([look.pixels for look in looks]), Estimate.join([look.estimate for look in looks])
        estimate = self._task.estimate(frames) if self._observed else exact
        if self._task.proprioception:
            estimate = estimate.told({one.name: exact.values[one.name] for one in self._task.state.robot}, all_of=True)
        latents = self._encode(frames) if self._encode is not None else None
        return Seen(frames, estimate, exact, latents, spans_ms=spans_ms)


class WorldPlace:
    """One imagined batch, all of its lanes in one forward pass.

    It imagines announced actions together where its fidelity names a chunk, or where its world knows nothing else (a
    world of clips).
    """

    def __init__(self, task: Task, world: World, fidelity: Fidelity) -> None:
        self._imagination = Imagination(task, world, fidelity)
        self._lanes: list[Lane] = []
        self.chunk = fidelity.chunk or (world.spec.max_chunk if world.spec.frames_per_latent > 1 else 1)
        self._spans = Spans(world.device)

    def reset(self, starts: Sequence[Start], seeds: Sequence[int]) -> Seen:
        """Encode every start."""
        return self._see(self._imagination.begin_all(starts, seeds), {})

    def step(self, actions: np.ndarray) -> Seen:
        """Imagine, decode and estimate."""
        spans, self._spans = self._spans, Spans(self._imagination.world.device)
        checked = self._imagination.check(actions, (len(self._lanes),))
        return self._see(self._imagination.step(self._lanes, checked, spans), spans.ms())

    def expect(self, actions: np.ndarray) -> None:
        """Imagine what is not yet imagined of them; the time counts for the next step."""
        if self.chunk == 1 or any(lane.ahead is not None for lane in self._lanes):
            return
        some = actions[:, : self.chunk]
        checked = self._imagination.check(some, some.shape[:2])
        self._lanes = self._imagination.expect(self._lanes, checked, self._spans)

    def keep(self, lanes: np.ndarray) -> None:
        """Drop the others from the batch."""
        self._lanes = [self._lanes[lane] for lane in lanes.tolist()]

    def close(self) -> None:
        """Nothing is open."""
        self._lanes = []

    def _see(self, ticks: Sequence[Tick], spans_ms: dict[str, float]) -> Seen:
        self._lanes = [tick.lane for tick in ticks]
        traces = [tick.trace for tick in ticks if tick.trace is not None]
        latents = [lane.latent for lane in self._lanes if lane.latent is not None]
        return Seen(
            np.stack([lane.pixels for lane in self._lanes]), Estimate.join([tick.estimate for tick in ticks]),
            latents=torch.stack(latents) if latents else None, traces=traces,
            changed=[lane.changed for lane in self._lanes] if self._imagination.world.guardrail else None,
            spans_ms={**(traces[0].spans_ms if traces else {}), **spans_ms},
        )
