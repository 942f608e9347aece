"""The arm: scripted exploration for training data: pick and place of every grade, pushes, failed grasps, drops, idling.

These behaviours read the simulator's state, as a data collector may; no agent does.  An episode strings several of them
together.  Lengths are cm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from wcsim.envs.cube_hand import GRASP_Z_CM, HOVER_CM, Hand, PickAndPlace, move

Look = Callable[[], np.ndarray]
"""The simulator's state now, as `wcsim.envs.cube_truth.CubeFrame.state`."""

MIX = {"place": 0.42, "drop": 0.14, "push": 0.16, "miss": 0.08, "wander": 0.16, "idle": 0.04}
"""How often each behaviour comes next."""

TABLE_CM = ((30.0, -20.0), (55.0, 20.0))
SPACE_CM = ((28.0, -22.0, 2.5), (57.0, 22.0, 30.0))


def hand_of(state: np.ndarray) -> Hand:
    """The moment that a simulator's state `[9]` shows."""
    return Hand(state[:3], float(state[3]), state[5:8], float(state[8]))


def explore(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """One episode's actions `[5]` without end; `goal` `[2]` is the task's."""
    noise = rng.choice([0.0, 0.15, 0.4, 0.8])
    while True:
        kind = rng.choice(list(MIX), p=list(MIX.values()))
        ticks = int(rng.integers(6, 14) if kind == "idle" else rng.integers(14, 48))
        behaviour = BEHAVIOURS[kind](rng, look, goal)
        for _ in range(ticks):
            action = next(behaviour)
            jitter = rng.normal(0, noise, 5) * np.array([1, 1, 1, 1, 0.3])
            yield np.clip(action + jitter, -1.0, 1.0).astype(np.float32)


def place(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Put the cube down: at the task's goal, or anywhere, and then somewhere else."""
    while True:
        to = goal if rng.random() < 0.4 else rng.uniform(*TABLE_CM)
        hand = PickAndPlace(to, carry_z=float(rng.uniform(6.0, 24.0)))
        while hand.phase != "leave":
            yield hand.act(hand_of(look()))
        for _ in range(3):
            yield hand.act(hand_of(look()))


def drop(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Let the cube fall from a height, on the way or at its end, and take it again."""
    del goal
    while True:
        height = float(rng.uniform(5.0, 20.0))
        hand = PickAndPlace(rng.uniform(*TABLE_CM), carry_z=height + 2.0, release_z=height)
        slip = int(rng.integers(4, 40)) if rng.random() < 0.4 else 1000
        carried = 0
        while hand.phase != "leave":
            action = hand.act(hand_of(look()))
            carried += hand.phase in ("lift", "carry")
            if carried > slip:
                action[4] = -1.0
            yield action


def push(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Go down beside the cube and push it along the table, the gripper closed or open."""
    del goal
    while True:
        heading, gripper = rng.uniform(-np.pi, np.pi), rng.choice([-1.0, 1.0])
        direction = np.array([np.cos(heading), np.sin(heading)])
        beside = look()[5:7] - direction * rng.uniform(6.0, 10.0) + rng.normal(0, 0.8, 2)
        yaw = float(look()[3] + rng.uniform(-0.8, 0.8))
        for height in (HOVER_CM, GRASP_Z_CM + rng.uniform(0.0, 1.5)):
            for _ in range(6 if height == HOVER_CM else 4):
                yield move(hand_of(look()), np.array([*beside, height]), yaw, gripper)
        speed = rng.uniform(1.0, 5.0)
        for _ in range(int(rng.integers(4, 12))):
            hand = hand_of(look())
            ahead = hand.effector + np.array([*(direction * speed), 0.0])
            yield move(hand, np.clip(ahead, *np.array(SPACE_CM)), yaw, gripper)
        for _ in range(2):
            hand = hand_of(look())
            yield move(hand, hand.effector + np.array([0.0, 0.0, 8.0]), yaw, gripper)


def miss(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Grasp beside the cube, or at its edge, and carry what is not there."""
    del goal
    while True:
        heading, wrong = rng.uniform(-np.pi, np.pi), rng.uniform(1.0, 5.0)
        offset = wrong * np.array([np.cos(heading), np.sin(heading), 0.0])
        hand = PickAndPlace(rng.uniform(*TABLE_CM), offset=offset)
        for _ in range(int(rng.integers(16, 30))):
            yield hand.act(hand_of(look()))


def wander(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Random actions, each held for some ticks, or a random place and the way to it."""
    del goal
    while True:
        if rng.random() < 0.5:
            action = rng.uniform(-1.0, 1.0, 5)
            for _ in range(int(rng.integers(1, 9))):
                yield action
            continue
        to, yaw, gripper = rng.uniform(*SPACE_CM), float(rng.uniform(-np.pi, np.pi)), rng.uniform(-1.0, 1.0)
        for _ in range(int(rng.integers(3, 10))):
            yield move(hand_of(look()), to, yaw, gripper)


def idle(rng: np.random.Generator, look: Look, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Nothing, the gripper as it is, or opening or closing."""
    del look, goal
    gripper = rng.choice([-1.0, 0.0, 1.0])
    while True:
        yield np.array([0.0, 0.0, 0.0, 0.0, gripper])


BEHAVIOURS = {"place": place, "drop": drop, "push": push, "miss": miss, "wander": wander, "idle": idle}
