"""Plan with MPC inside a world, and act in the same world.

    python examples/plan_mpc.py --ticks 16

The planner imagines at a low fidelity, the environment at a higher one.  Easy to get wrong: the goal is a latent
of the same world, so a frame of the goal must be encoded by that world's codec.
"""

from __future__ import annotations

import argparse

import gymnasium as gym

import wcsim  # noqa: F401
from wcsim.agents.mpc import MPCAgent, MPCConfig
from wcsim.agents.objectives import LatentGoal
from wcsim.cache import preset
from wcsim.envs.imagined import ImaginedEnv
from wcsim.estimate import Episode
from wcsim.types import Fidelity


def main() -> None:
    """Search for actions whose last frame looks like the finished table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="pusht-96", help="a shipped world's name, or a folder")
    parser.add_argument("--ticks", type=int, default=16, help="steps to act")
    parser.add_argument("--candidates", type=int, default=24, help="action sequences per round")
    arguments = parser.parse_args()

    env = gym.make("wcsim/PushT-v0", world=arguments.world, fidelity={"steps": 16})
    imagined = env.unwrapped
    assert isinstance(imagined, ImaginedEnv)
    world, task = imagined.world, imagined.played
    planner = MPCConfig(planner="cem", horizon=8, rounds=2, candidates=arguments.candidates, elites=4)
    agent = MPCAgent(world, LatentGoal(world.encode(task.goal_frame()[None])[0]), planner,
                     fidelity=Fidelity(6, preset("wcsim").build(), "unipc"),
                     hold=lambda seen: task.hold_action(seen["pixels"]))

    observation, _ = env.reset(seed=700000)
    agent.reset(Episode(number=0, seed=700000))
    for tick in range(arguments.ticks):
        action = agent.act(observation, steps_left=arguments.ticks - tick)
        observation, reward, terminated, truncated, info = env.step(action)
        print(f"tick {tick}: action {action.round(1)}, reward {reward:.3f}, progress {info['progress']:.3f}")
        if terminated or truncated:
            break
    env.close()


if __name__ == "__main__":
    main()
