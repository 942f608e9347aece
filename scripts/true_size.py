"""Time the 2B robot model at its true size, with random weights: uncached, and with a replayed list of cache decisions.

    python scripts/true_size.py --out runs/true-size         # 256x320, 1,280 tokens, float32: hours on a CPU, 12 GB
    python scripts/true_size.py --size tiny --steps 6

Once it is decided what to skip, its time does not depend on the weights, so decisions are recorded on the shipped world
(or read from a file) and replayed.  Prints seconds, operations, peak memory and the speed-up; writes `true_size.json`.
Where others use the machine, trust the seconds of this process (`cpu_seconds`) and not those of the wall.
"""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from wcsim.cache import NoCache, preset
from wcsim.cache.reuse import full_pass
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.cosmos import PREDICT_2B, PREDICT_14B
from wcsim.world.cost import pass_cost
from wcsim.world.transformer import ActionCosmosTransformer
from wcsim.world.world import World

HELD_OUT_SEED = 600_000

TINY = {**PREDICT_2B, "num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 4, "adaln_lora_dim": 8,
        "text_embed_dim": 16, "encoder_hidden_states_channels": 16, "crossattn_proj_in_channels": 64}
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "2b": (PREDICT_2B, (4, 32, 40), 512),
    "tiny": (TINY, (4, 8, 8), 16),
}
"""Configuration, latent frames with height and width, text tokens."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Skips the deep blocks at the listed steps, and adds the last deep residual there; one block always runs."""

    hits: tuple[bool, ...]

    def init(self, num_lanes: int, num_steps: int) -> Tensor:
        """Nothing to reuse yet."""
        del num_lanes
        assert num_steps == len(self.hits)
        return torch.empty(0)

    def forward(self, stack: BlockStack, step: int, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Decision]:
        """As decided: embedded tokens `[N, L, D]` to output tokens `[N, L, D]`."""
        probe = stack.run(tokens, 0, 1)
        output = tokens + state if self.hits[step] else stack.run(probe, 1, stack.depth)
        return output, output - tokens, full_pass(len(tokens))


def record_decisions(steps: int) -> tuple[bool, ...]:
    """At which of so many steps the recommended cache skips on the shipped world, one tick into recorded play."""
    world = World.load("pusht-96")
    seen, actions = play_exploration(make_task("pusht"), HELD_OUT_SEED, 4)
    frames = np.array([look.pixels for look in seen[:4]])
    state = world.init(frames[None], actions[None, :3], [HELD_OUT_SEED])
    _, _, trace = world.advance(state, actions[None, 3:], Fidelity(steps, preset("wcsim").build()))
    return tuple(bool(hit) for hit in trace.hit[0, :, 0])


def random_transformer(config: dict[str, Any]) -> ActionCosmosTransformer:
    """Weights of the true shapes, made in place."""
    with torch.device("meta"):
        transformer = ActionCosmosTransformer(**config, action_features=28)
    torch.nn.Module.to_empty(transformer, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight.requires_grad_(False), std=0.02, generator=generator)
    made: ActionCosmosTransformer = transformer.eval()
    return made


@torch.inference_mode()
def measure(
    transformer: ActionCosmosTransformer, latent: tuple[int, int, int], text_tokens: int, policy: CachePolicy,
    steps: int,
) -> dict[str, float]:
    """One chunk: seconds, operations, blocks run, peak memory so far."""
    frames, height, width = latent
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, frames, 16, height, width, generator=generator)
    text = torch.randn(1, text_tokens, transformer.text_width, generator=generator)
    actions = torch.randn(1, frames, 28, generator=generator)
    known = torch.arange(frames).expand(1, -1) > 0

    def imagine(steps: int, policy: CachePolicy) -> Tensor:
        sampling = Sampling(steps, "unipc", 5.0, -1.0)
        return sample_clip(transformer, noise[:, :1], noise, text, sampling, policy, actions=actions, known=known)[2]

    imagine(1, NoCache())  # what is done once, is done before the clock runs
    began, began_cpu = perf_counter(), process_time()
    ran = int(imagine(steps, policy).sum())
    seconds, cpu_seconds = perf_counter() - began, process_time() - began_cpu
    cost = pass_cost(dict(transformer.config), latent, text_tokens).total(ran, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tera_operations": cost / 1e12, "blocks": ran,
            "giga_operations_per_second": cost / seconds / 1e9, "peak_memory_gb": peak / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--steps", type=int, default=35, help="denoise steps")
    parser.add_argument("--decisions", type=Path, help="JSON list of booleans, one per step: whether it skips")
    parser.add_argument("--out", type=Path, default=Path("runs/true-size"), help="directory for true_size.json")
    arguments = parser.parse_args()
    config, latent, text_tokens = SIZES[arguments.size]
    hits = (tuple(json.loads(arguments.decisions.read_text())) if arguments.decisions
            else record_decisions(arguments.steps))
    if len(hits) != arguments.steps or hits[0]:
        raise SystemExit(f"{len(hits)} decisions for {arguments.steps} steps, the first {hits[0]}: there must be one "
                         "per step, and the first step has nothing to reuse")
    transformer = random_transformer(config)
    results: dict[str, Any] = {
        "size": arguments.size, "steps": arguments.steps, "decisions": hits, "threads": torch.get_num_threads(),
        "weights": sum(weight.numel() for weight in transformer.parameters()),
        "uncached": measure(transformer, latent, text_tokens, NoCache(), arguments.steps),
        "cached": measure(transformer, latent, text_tokens, Replayed(hits), arguments.steps),
    }
    for clock, name in (("seconds", "speedup"), ("cpu_seconds", "speedup_of_cpu_seconds")):
        results[name] = results["uncached"][clock] / results["cached"][clock]
    with torch.device("meta"):
        results["weights_14b"] = sum(weight.numel() for weight in ActionCosmosTransformer(
            **PREDICT_14B, action_features=0).parameters())
    cost = pass_cost(PREDICT_14B, *SIZES["2b"][1:])
    results["tera_operations_per_pass_14b"] = cost.total(PREDICT_14B["num_layers"], 1) / 1e12
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "true_size.json").write_text(json.dumps(results, indent=2) + "\n")
    Console().print_json(json.dumps(results))


if __name__ == "__main__":
    main()
