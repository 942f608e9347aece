"""Time the 2B robot model at its true size, with random weights: uncached, and under recorded cache decisions.

    python scripts/true_size.py --out runs/true-size                   # 256x320, 1,280 tokens, float32; 12 GB
    python scripts/true_size.py --out runs/true-size --minutes 20      # stops in time; the same command goes on
    python scripts/true_size.py --out runs/true-size --measured 3      # 3 steps of either kind, the rest extrapolated
    python scripts/true_size.py --size tiny --steps 6

Once it is decided what to skip, its time does not depend on the weights.  So decisions are recorded on the shipped
world (or read from a file), and imposed on the cache that made them, which measures and extrapolates as ever.  Each
denoise step is timed and written down (`steps.json`), so a run that stops loses one step; sums over them, operations,
peak memory and the speed-up are printed and written to `true_size.json`.  Where others use the machine, trust the
seconds of this process (`cpu_seconds`, over all threads) and not those of the wall.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from wcsim.backbones.cosmos2.cost import pass_cost
from wcsim.backbones.cosmos2.releases import PREDICT_2B, PREDICT_14B
from wcsim.backbones.cosmos2.transformer import ActionCosmosTransformer
from wcsim.cache import NoCache, preset
from wcsim.cache.curve import Curve, State
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.types import BlockStack, CachePolicy, Decision, Fidelity
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.world import World

HELD_OUT_SEED = 600_000
LOOPS = ("uncached", "cached")

TINY = {**PREDICT_2B, "num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 4, "adaln_lora_dim": 8,
        "text_embed_dim": 16, "encoder_hidden_states_channels": 16, "crossattn_proj_in_channels": 64}
SIZES: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "2b": (PREDICT_2B, (4, 32, 40), 512),
    "tiny": (TINY, (4, 8, 8), 16),
}
"""Configuration, latent frames with height and width, text tokens."""


@dataclass(frozen=True, slots=True)
class Imposed(Curve):
    """The recommended cache, its decisions given."""

    hits: tuple[bool, ...] = ()

    def _skips(self, step: int, fallen: float, state: State) -> bool:
        return self.hits[step]


class Enough(Exception):
    """The time that was given is over."""


@dataclass(slots=True)
class Watch(CachePolicy):
    """A policy that times denoise steps, from the beginning of one to that of the next.

    tell: receives the seconds of every step, on the wall and of this process.  until: when the wall clock has passed
    this, no step begins any more.
    """

    policy: Any
    tell: Callable[[list[float]], None]
    until: float
    began: tuple[float, float] | None = None

    def init(self, num_lanes: int, num_steps: int) -> Any:
        """That of the policy."""
        return self.policy.init(num_lanes, num_steps)

    def forward(self, stack: BlockStack, step: int, state: Any) -> tuple[Tensor, Any, Decision]:
        """That of the policy."""
        self.mark()
        if perf_counter() > self.until:
            raise Enough
        result: tuple[Tensor, Any, Decision] = self.policy.forward(stack, step, state)
        return result

    def mark(self) -> None:
        """A step ends here, and another may begin."""
        now = (perf_counter(), process_time())
        if self.began is not None:
            self.tell([after - before for before, after in zip(self.began, now, strict=True)])
        self.began = now


def record_decisions(steps: int) -> list[bool]:
    """At which of so many steps the recommended cache skips on the shipped world, one tick into recorded play."""
    world = World.load("pusht-96")
    seen, actions = play_exploration(make_task("pusht"), HELD_OUT_SEED, 4)
    frames = np.array([look.pixels for look in seen[:4]])
    state = world.init(frames[None], actions[None, :3], [HELD_OUT_SEED])
    _, _, trace = world.advance(state, actions[None, 3:], Fidelity(steps, preset("wcsim").build(), "unipc"))
    return [bool(hit) for hit in trace.hit[0, :, 0]]


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


def imagine(
    transformer: ActionCosmosTransformer, latent: tuple[int, int, int], text_tokens: int, policy: CachePolicy,
    steps: int,
) -> None:
    """One chunk of the robot model, in so many steps."""
    frames, height, width = latent
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, frames, 16, height, width, generator=generator)
    text = torch.randn(1, text_tokens, transformer.text_width, generator=generator)
    actions = torch.randn(1, frames, 28, generator=generator)
    known = torch.arange(frames).expand(1, -1) > 0
    sampling = Sampling(steps, "unipc", 5.0, -1.0)
    sample_clip(transformer, noise[:, :1], noise, text, sampling, policy, actions=actions, known=known)


@torch.inference_mode()
def measure(
    run: Callable[[CachePolicy, int], None], hits: Sequence[bool], done: list[list[float]], save: Callable[[], None],
    until: float,
) -> bool:
    """Append the seconds of the steps that `done` lacks, one entry per step; whether all are there now.

    Where the next step skips, a full one goes first, uncounted, so that there is something to reuse.
    """
    left = list(hits[len(done) :])
    if not left:
        return True
    uncounted = left[:1] == [True]
    plan = ([False] if uncounted else []) + left

    def tell(seconds: list[float]) -> None:
        nonlocal uncounted
        if not uncounted:
            done.append(seconds)
            save()
        uncounted = False

    recommended = preset("wcsim")
    if not isinstance(recommended, Curve.Config):
        raise SystemExit(f"decisions are imposed on a curve cache; the preset wcsim is a {recommended.kind}")
    free = recommended.model_copy(update={"warmup": 0.0, "min_warmup": 1, "force_last": False})
    watch = Watch(Imposed(free, tuple(plan)) if any(hits) else NoCache(), tell, until)
    try:
        run(watch, len(plan))
    except Enough:
        return False
    watch.mark()
    return True


def summarise(hits: Sequence[bool], timed: Sequence[bool], done: list[list[float]]) -> dict[str, Any]:
    """Seconds of a loop over `hits`, from the steps that were timed: their sum, or means by kind times counts."""
    kinds: dict[bool, list[list[float]]] = {False: [], True: []}
    for hit, seconds in zip(timed, done, strict=True):
        kinds[hit].append(seconds)
    means = {kind: np.mean(taken, axis=0).tolist() if taken else [0.0, 0.0] for kind, taken in kinds.items()}
    wall, cpu = (sum(means[hit][clock] for hit in hits) for clock in (0, 1))
    return {
        "seconds": wall, "cpu_seconds": cpu, "full_steps": len(hits) - sum(hits), "skipping_steps": sum(hits),
        "seconds_per_full_step": means[False][0], "seconds_per_skipping_step": means[True][0],
        "measured_steps": len(done), "extrapolated": len(done) < len(hits),
    }


def sample_of(hits: list[bool], measured: int | None) -> list[bool]:
    """The steps to time: all, or so many of either kind, full ones first."""
    if measured is None:
        return hits
    return [False] * min(measured, len(hits) - sum(hits)) + [True] * min(measured, sum(hits))


def report(
    results: dict[str, Any], config: dict[str, Any], latent: tuple[int, int, int], text_tokens: int
) -> dict[str, Any]:
    """Operations, memory and speed-ups on top of the seconds.  Text is read before the clock runs, and not counted."""
    cost, depth = replace(pass_cost(config, latent, text_tokens), text=0.0), config["num_layers"]
    for name in LOOPS:
        loop = results[name]
        passes = loop["full_steps"] + loop["skipping_steps"]
        loop["blocks"] = loop["full_steps"] * depth  # the cache has no probe
        loop["tera_operations"] = cost.total(loop["blocks"], passes) / 1e12
        loop["giga_operations_per_second"] = 1e3 * loop["tera_operations"] / loop["seconds"]
    for clock, name in (("seconds", "speedup"), ("cpu_seconds", "speedup_of_cpu_seconds")):
        results[name] = results["uncached"][clock] / results["cached"][clock]
    results["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    with torch.device("meta"):
        results["weights_14b"] = sum(weight.numel() for weight in ActionCosmosTransformer(
            **PREDICT_14B, action_features=0).parameters())
    large = pass_cost(PREDICT_14B, *SIZES["2b"][1:])
    results["tera_operations_per_pass_14b"] = large.total(PREDICT_14B["num_layers"], 1) / 1e12
    return results


def decide(path: Path | None, out: Path, steps: int) -> list[bool]:
    """The decisions: given, or those recorded for an earlier part of this run, or recorded now."""
    kept = path or out / "decisions.json"
    hits: list[bool] = json.loads(kept.read_text()) if kept.is_file() else record_decisions(steps)
    if len(hits) != steps or hits[0]:
        raise SystemExit(f"{len(hits)} decisions for {steps} steps, the first {hits[0]}: there must be one per step, "
                         "and the first step has nothing to reuse")
    out.mkdir(parents=True, exist_ok=True)
    (out / "decisions.json").write_text(json.dumps(hits) + "\n")
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--steps", type=int, default=35, help="denoise steps")
    parser.add_argument("--decisions", type=Path, help="JSON list of booleans, one per step: whether it skips")
    parser.add_argument("--measured", type=int, help="time so many steps of either kind and extrapolate")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop in time, to go on another day")
    parser.add_argument("--out", type=Path, default=Path("runs/true-size"), help="directory for true_size.json")
    arguments = parser.parse_args()
    until = perf_counter() + 60 * arguments.minutes
    config, latent, text_tokens = SIZES[arguments.size]
    hits = decide(arguments.decisions, arguments.out, arguments.steps)
    lists = {"uncached": [False] * len(hits), "cached": hits}
    timed = {name: sample_of(listed, arguments.measured) for name, listed in lists.items()}
    results: dict[str, Any] = {"size": arguments.size, "steps": arguments.steps, "decisions": hits,
                               "threads": torch.get_num_threads()}
    steps_file, key = arguments.out / "steps.json", {**results, "timed": timed}
    kept = json.loads(steps_file.read_text()) if steps_file.is_file() else {}
    done: dict[str, list[list[float]]] = kept["done"] if kept.get("key") == key else {name: [] for name in LOOPS}
    transformer = random_transformer(config)
    results["weights"] = sum(weight.numel() for weight in transformer.parameters())

    def run(policy: CachePolicy, steps: int) -> None:
        imagine(transformer, latent, text_tokens, policy, steps)

    def save() -> None:
        steps_file.write_text(json.dumps({"key": key, "done": done}) + "\n")

    for name in LOOPS:
        if not measure(run, timed[name], done[name], save, until):
            raise SystemExit(f"{sum(map(len, done.values()))} of {sum(map(len, timed.values()))} steps are timed; the "
                             "same command goes on")
        results[name] = summarise(lists[name], timed[name], done[name])
    report(results, config, latent, text_tokens)
    (arguments.out / "true_size.json").write_text(json.dumps(results, indent=2) + "\n")
    Console().print_json(json.dumps(results))


if __name__ == "__main__":
    main()
