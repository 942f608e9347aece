"""Step a world as a Gymnasium environment, branch it into two futures, and write a video.

    python examples/step_environment.py --out videos

Easy to get wrong: `import wcsim` is what registers the environments, so keep it although its name is not used.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import wcsim  # noqa: F401
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.recorder import Recorder


def main() -> None:
    """Ten random actions; then the two corners of the action space, from the same present."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="pusht-96", help="a shipped world's name, or a folder")
    parser.add_argument("--steps", type=int, default=10, help="denoise steps per frame")
    parser.add_argument("--out", default="videos", help="folder for the video")
    arguments = parser.parse_args()

    made = gym.make("wcsim/PushT-v0", world=arguments.world, fidelity={"steps": arguments.steps},
                    render_mode="rgb_array_list")
    env = Recorder(made, arguments.out)
    env.reset(seed=7)
    env.action_space.seed(7)
    for number in range(10):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        print(f"step {number}: reward {reward:.3f}, progress {info['progress']:.3f}, skipped {info['skipped']:.0%}")
        if terminated or truncated:
            break

    imagined, space = env.unwrapped, env.action_space
    assert isinstance(imagined, ImaginedEnv)
    assert isinstance(space, gym.spaces.Box)
    left, right = imagined.branch(2)  # nothing is copied
    apart = np.abs(left.step(space.low)[0]["pixels"].astype(int) - right.step(space.high)[0]["pixels"]).mean()
    print(f"two futures of one present differ by {apart:.2f} levels of 255 after one step")
    env.close()


if __name__ == "__main__":
    main()
