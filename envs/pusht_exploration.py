"""PushT: scripted exploration for training data: mixed behaviours with much contact.

These behaviours read the simulator's state, as a data collector may; no agent does.  All targets are simulator pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Look = Callable[[], np.ndarray]
"""The simulator's state now: agent x y, block x y angle, agent velocity x y."""

MIX = {"push": 0.4, "goal": 0.2, "hover": 0.15, "wander": 0.15, "leap": 0.1}
"""How often an episode shows each behaviour."""


def explore(rng: np.random.Generator, look: Look, *, table: float, goal: tuple[float, ...]) -> Iterator[np.ndarray]:
    """One episode's targets `[2]` without end: a behaviour drawn from the mix, with hand noise, within the table."""
    kind = rng.choice(list(MIX), p=list(MIX.values()))
    if kind == "wander":
        behaviour = wander(rng, table)
    elif kind == "leap":
        behaviour = leap(rng, table)
    elif kind == "hover":
        behaviour = hover(rng, look)
    else:
        behaviour = strokes(rng, look, towards=goal[:2] if kind == "goal" else None)
    noise = rng.choice([0.0, 3.0, 12.0])
    for target in behaviour:
        yield np.clip(target + rng.normal(0, noise, 2), 0, table).astype(np.float32)


def wander(rng: np.random.Generator, table: float) -> Iterator[np.ndarray]:
    """A smooth random walk, blind to the block."""
    target, velocity = rng.uniform(60, table - 60, 2), np.zeros(2)
    speed = rng.uniform(5, 40)
    while True:
        velocity = 0.8 * velocity + rng.normal(0, speed, 2)
        target = target + velocity
        velocity = np.where((target < 0) | (target > table), -velocity, velocity)
        yield target


def leap(rng: np.random.Generator, table: float) -> Iterator[np.ndarray]:
    """Uniform over the table, each held for 1 to 8 ticks: what a random policy and a wide planner do."""
    hold = int(rng.integers(1, 9))
    while True:
        target = rng.uniform(0, table, 2)
        for _ in range(hold):
            yield target


def strokes(rng: np.random.Generator, look: Look, *, towards: tuple[float, ...] | None) -> Iterator[np.ndarray]:
    """Go beside the block, push through it, again; roughly `towards` a point, or anywhere."""
    while True:
        block = look()[2:5]
        c, s = np.cos(block[2]), np.sin(block[2])
        along, down = rng.uniform(-60, 60), rng.uniform(0, 120)
        contact = block[:2] + np.array([[c, -s], [s, c]]) @ np.array([along, down if abs(along) < 15 else down / 4])
        heading = rng.uniform(-np.pi, np.pi)
        if towards is not None:
            heading = np.arctan2(towards[1] - block[1], towards[0] - block[0]) + rng.normal(0, 0.5)
        direction = np.array([np.cos(heading), np.sin(heading)])
        start = contact - direction * rng.uniform(50, 110)
        for _ in range(int(rng.integers(3, 9))):
            yield start
        speed, target = rng.uniform(8, 50), look()[:2]
        for _ in range(int(rng.integers(4, 15))):
            target = target + direction * speed
            yield target


def hover(rng: np.random.Generator, look: Look) -> Iterator[np.ndarray]:
    """Jitter around the block: many short, odd contacts."""
    spread = rng.uniform(20, 90)
    while True:
        target = look()[2:4] + rng.normal(0, spread, 2)
        for _ in range(int(rng.integers(1, 5))):
            yield target
