"""The installed wheel, used as a stranger would: run by its own interpreter from a folder that is not the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import gymnasium as gym

import wcsim
import wcsim.agents
import wcsim.configs
import wcsim.envs

SITE = Path(sysconfig.get_path("purelib"))


def command(*arguments: str) -> str:
    """What `wcsim ARGUMENTS` prints; raises where it fails."""
    program = Path(sysconfig.get_path("scripts")) / "wcsim"
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"wcsim {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def step(world: str) -> None:
    """One step of the environment of a world; raises where there is none, or where the frame stays as it was."""
    ids = {spec.kwargs["world"]: name for name, spec in gym.registry.items()
           if name.startswith("wcsim/") and "world" in spec.kwargs}
    env = gym.make(ids[world], fidelity={"steps": 4})
    first, _ = env.reset(seed=0)
    env.action_space.seed(0)
    second, *_ = env.step(env.action_space.sample())
    if first["pixels"].shape != second["pixels"].shape or (first["pixels"] == second["pixels"]).all():
        raise SystemExit(f"one step of {world} did not change the frame")


def main() -> None:
    """Imports, then the command, then the worlds.  Arguments: the names of the worlds that the wheel must hold."""
    for module in (wcsim, wcsim.envs, wcsim.agents, wcsim.configs):
        if module.__file__ is None or not Path(module.__file__).is_relative_to(SITE):
            raise SystemExit(f"{module.__name__} comes from {module.__file__}, not from the wheel in {SITE}")
    if "torch" in sys.modules:
        raise SystemExit("importing wcsim imported torch")
    if "run" not in command("--help"):
        raise SystemExit("wcsim --help does not offer `run`")
    command("worlds")

    from wcsim.world.checkpoints import shipped_worlds

    expected, shipped = set(sys.argv[1:]), set(shipped_worlds())
    if expected != shipped:
        raise SystemExit(f"the wheel ships the worlds {sorted(shipped)}, the checkout holds {sorted(expected)}")
    for world in shipped:
        step(world)
    sys.stdout.write(f"wcsim {wcsim.__version__} from the wheel imports, runs and steps {sorted(shipped)}\n")


if __name__ == "__main__":
    main()
