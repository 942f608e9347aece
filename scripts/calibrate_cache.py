"""What two caches must know of a world before they can gate: TeaCache's polynomial, MagCache's ratios, as YAML.

    python scripts/calibrate_cache.py pusht-96

Plays episodes of the validation seeds (500000 and up), goes on from each in the world, uncached, and watches every
denoise step.  The two lists printed belong into `configs/cache_teacache.yaml` and `configs/cache_magcache.yaml`, or
beside the `preset` of a configuration of one's own.  Easy to get wrong: the ratios are those of one number of steps.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wcsim.cache.drift import relative_drift
from wcsim.cache.reuse import full_pass
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity
from wcsim.world.world import World

CONTEXT = 4
DEGREE = 4


@dataclass(frozen=True)
class Recorder(CachePolicy):
    """A policy that skips nothing and writes down, at every step after the first, `[3, N]`: the relative change of the
    modulated input, that of the output, and the mean over tokens of |r_s| / |r_{s-1}|; r: output minus input."""

    seen: list[Tensor] = field(default_factory=list)

    def init(self, num_lanes: int, num_steps: int) -> None:
        """Nothing is known before the first step."""

    def forward(
        self, stack: BlockStack, step: int, state: tuple[Tensor, Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Decision]:
        """All blocks; the state is what the next step compares with: modulated input, output, |r| per token."""
        tokens = stack.tokens
        output, modulated = stack.run(tokens, 0, stack.depth), stack.modulated(tokens)
        size = (output - tokens).float().norm(dim=-1)
        if state is not None:
            changes = relative_drift(modulated, state[0]), relative_drift(output, state[1])
            self.seen.append(torch.stack([*changes, (size / state[2]).mean(-1)]).cpu())
        return stack.velocity(output), (modulated, output, size), full_pass(stack.lanes)


def record(world: World, seeds: list[int], frames: int, steps: int) -> np.ndarray:
    """`[frames, steps - 1, 3, N]` of what `Recorder` sees while each episode goes on for so many frames, one by one."""
    task = make_task(world.spec.task)
    played = [play_exploration(task, seed, CONTEXT - 1 + frames) for seed in seeds]
    pixels = np.array([[look.pixels for look in looks[:CONTEXT]] for looks, _ in played])
    actions = np.array([done for _, done in played])
    recorder = Recorder()
    state = world.init(pixels, actions[:, : CONTEXT - 1], seeds)
    world.advance(state, actions[:, CONTEXT - 1 :], Fidelity(steps, recorder, chunk=1))
    seen: np.ndarray = torch.stack(recorder.seen).unflatten(0, (frames, steps - 1)).numpy()
    return seen


def fit(inputs: np.ndarray, outputs: np.ndarray) -> tuple[list[float], float]:
    """Coefficients, highest power first, of the polynomial from input to output changes, and its R^2."""
    coefficients = np.polyfit(inputs, outputs, DEGREE)
    missed = outputs - np.polyval(coefficients, inputs)
    return [float(f"{value:.6g}") for value in coefficients], float(1 - missed.var() / outputs.var())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a shipped world's name, or a world folder")
    parser.add_argument("--first-seed", type=int, default=500_000)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--frames", type=int, default=2, help="imagined per episode")
    parser.add_argument("--steps", type=int, default=None, help="denoise steps (default: the world's)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    world = World.load(arguments.world, device=arguments.device)
    steps = arguments.steps or world.spec.default_steps
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.episodes))
    inputs, outputs, ratios = record(world, seeds, arguments.frames, steps).transpose(2, 0, 1, 3)
    coefficients, explained = fit(inputs.ravel(), outputs.ravel())
    print(f"# {world.spec.name}, {steps} steps, {len(seeds)} episodes from {seeds[0]}, {arguments.frames} frames each")
    print(f"# changes of the input from {inputs.min():.4f} to {inputs.max():.4f}; R^2 of the fit {explained:.2f}")
    print(f"coefficients: {coefficients}")
    print(f"ratios: {[1.0, *(round(float(ratio), 5) for ratio in ratios.mean(axis=(0, 2)))]}")


if __name__ == "__main__":
    main()
