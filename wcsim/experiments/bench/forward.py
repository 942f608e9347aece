"""What the open forward saves without changing a number: our denoise loop against diffusers' own, on the same weights.

Weights are random; time does not depend on their values.  Both loops get the same noise, frame and text, their results
are compared, and they take turns, so that a machine that slows down slows both.  Easy to get wrong: neighbours on a
shared CPU: on one thread the clock is the process's own, which they do not advance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from diffusers import CosmosTransformer3DModel
from rich.table import Table
from torch import Tensor

from wcsim.backbones.cosmos2.conditioning import Conditioning, Constants
from wcsim.backbones.cosmos2.modulation import Modulation
from wcsim.backbones.cosmos2.releases import PREDICT_2B
from wcsim.backbones.cosmos2.transformer import OWN_ARGUMENTS, ActionCosmosTransformer
from wcsim.cache.none import NoCache
from wcsim.errors import ConfigError, RunError
from wcsim.world.checks import check_device
from wcsim.world.clips import Sampling, sample_clip
from wcsim.world.guidance import Guidance
from wcsim.world.sampler import make_scheduler

GUIDANCE = 7.0
SAVINGS = {
    "modulation_per_frame": "adaLN per latent frame, not per token",
    "modulation_ahead": "adaLN of many denoise steps at once",
    "text_once": "text projected, and made keys and values, once per rollout",
    "position_once": "rotary table once per rollout",
}
"""What is undone, one at a time, to measure what it saves."""


@dataclass(frozen=True, slots=True)
class Size:
    """A transformer and its work.  latent: frames, height, width.  tolerance: of the results, which are of order 1."""

    config: dict[str, Any]
    latent: tuple[int, int, int]
    text_tokens: int
    steps: int
    rounds: int
    tolerance: float = 1e-3


def scaled(width: int, head: int, layers: int) -> dict[str, Any]:
    """Cosmos-Predict2.5-2B with every width in proportion."""
    return {**PREDICT_2B, "num_attention_heads": width // head, "attention_head_dim": head, "num_layers": layers,
            "adaln_lora_dim": width // 8, "text_embed_dim": width // 2, "encoder_hidden_states_channels": width // 2,
            "crossattn_proj_in_channels": 49 * width}


SIZES = {
    "quick": Size(scaled(96, 48, 2), (4, 4, 8), 24, steps=3, rounds=2),
    "middle": Size(scaled(384, 128, 8), (4, 12, 20), 96, steps=12, rounds=4),
    "2b": Size(PREDICT_2B, (4, 32, 40), 512, steps=6, rounds=3, tolerance=1e-2),
}
"""The 2B at 256x320 has 1,280 tokens, 0.625 of its width, and 512 of text, a quarter; so has the middle size."""


class Undone(ActionCosmosTransformer):
    """A transformer that shares another's weights and leaves some of the savings out."""

    redo: Collection[str]

    @classmethod
    def of(cls, transformer: ActionCosmosTransformer, redo: Collection[str], text: Tensor) -> Undone:
        """redo: keys of SAVINGS.  text: what is read again at every step."""
        changed: Any = copy(transformer)
        changed.__class__, changed.redo = cls, redo
        changed.__dict__["raw_text"] = text
        undone: Undone = changed
        return undone

    def embed_step(
        self, latents_NCThw: Tensor, modulation: Modulation, clean_T: Tensor, constants: Constants
    ) -> tuple[Tensor, Conditioning]:
        if "text_once" in self.redo:
            constants = replace(constants, text=self.read_text(self.__dict__["raw_text"]))
        if "position_once" in self.redo:
            constants = replace(constants, position=self.position(latents_NCThw))
        tokens, given = super().embed_step(latents_NCThw, modulation, clean_T, constants)
        if "modulation_per_frame" in self.redo:
            _, rows, columns = given.grid
            time, shared = (x.expand(-1, -1, rows * columns, -1).contiguous()
                            for x in (modulation.time, modulation.shared))
            given = replace(given, modulation=Modulation(time, shared))
        return tokens, given

    def modulations(
        self, sigma_SNT: Tensor, constants: Constants, schedule: Sequence[int] | None = None
    ) -> Sequence[Modulation]:
        if not {"modulation_per_frame", "modulation_ahead"} & set(self.redo):
            return super().modulations(sigma_SNT, constants, schedule)
        return [Modulation(*self.time_and_action(sigma_NT, constants.action)) for sigma_NT in sigma_SNT]


def stock_of(transformer: ActionCosmosTransformer) -> Any:
    """Diffusers' own class around the same weights.

    Its padding-mask branch needs torchvision, so the zero mask is one more input channel: the same arithmetic.
    """
    config = {name: value for name, value in transformer.config.items()
              if not name.startswith("_") and name not in OWN_ARGUMENTS}
    config |= {"in_channels": config["in_channels"] + 1, "concat_padding_mask": False}
    with torch.device("meta"):
        stock = CosmosTransformer3DModel(**config)
    stock.load_state_dict(transformer.state_dict(), strict=True, assign=True)
    return stock.eval()


def stock_loop(
    stock: Any, context_NCThw: Tensor, noise_NCThw: Tensor, text: Tensor, unconditional: Tensor | None, steps: int
) -> Tensor:
    """The denoise loop of `Cosmos2_5_PredictBasePipeline` from one given latent frame: latents `[N, C, T, h, w]`."""
    scheduler = make_scheduler("unipc-karras", steps, 1.0)
    mask = torch.zeros_like(noise_NCThw[:, :1])
    mask[:, :, : context_NCThw.shape[2]] = 1.0
    clean = torch.zeros_like(noise_NCThw)
    clean[:, :, : context_NCThw.shape[2]] = context_NCThw
    true_velocity = (noise_NCThw - clean) * mask
    latents, dtype = noise_NCThw, stock.patch_embed.proj.weight.dtype

    def velocity(given: Tensor, level: Tensor, embedding: Tensor) -> Tensor:
        channels = torch.cat([given, mask, torch.zeros_like(mask)], dim=1).to(dtype)
        out: Tensor = stock(channels, timestep=level, encoder_hidden_states=embedding, return_dict=False)[0]
        return true_velocity + out * (1 - mask)

    for step, timestep in enumerate(scheduler.timesteps):
        level = torch.where(mask[:, :, :, :1, :1] > 0, 1e-4, float(scheduler.sigmas[step]))
        given = mask * clean + (1 - mask) * latents
        predicted = velocity(given, level, text)
        if unconditional is not None:
            predicted = predicted + GUIDANCE * (predicted - velocity(given, level, unconditional))
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    return latents


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs: context `[N, 1, C, h, w]`, noise `[N, T, C, h, w]`, texts `[1, S, E]`."""

    context: Tensor
    noise: Tensor
    text: Tensor
    unconditional: Tensor
    steps: int

    def ours(self, transformer: ActionCosmosTransformer, guidance: Guidance | None = None) -> Tensor:
        """Our loop: latents `[N, T, C, h, w]`."""
        sampling = Sampling(self.steps, "unipc-karras", guidance=guidance)
        return sample_clip(transformer, self.context, self.noise, self.text, sampling, NoCache())[0]

    def theirs(self, stock: Any, *, guided: bool) -> Tensor:
        """Diffusers' loop, in our layout."""
        lanes = len(self.noise)
        text, unconditional = (t.expand(lanes, -1, -1) for t in (self.text, self.unconditional))
        return stock_loop(stock, self.context.transpose(1, 2), self.noise.transpose(1, 2), text,
                          unconditional if guided else None, self.steps).transpose(1, 2)


@torch.inference_mode()
def bench_forward(
    size: str = "middle", *, out: Path, lanes: int = 1, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Run and write `summary.json`.  RunError where a saving changed the result."""
    if size not in SIZES:
        raise ConfigError(f"size {size!r} is unknown; known: {', '.join(SIZES)}")
    check_device(device)
    out.mkdir(parents=True, exist_ok=True)
    chosen = SIZES[size]
    transformer, case = _make(chosen, lanes, device, dtype)
    stock = stock_of(transformer)
    loops: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: case.ours(transformer),
        "diffusers": lambda: case.theirs(stock, guided=False),
        "ours_guided": lambda: case.ours(transformer, Guidance(GUIDANCE, case.unconditional)),
        "ours_guided_in_turn": lambda: case.ours(transformer, Guidance(GUIDANCE, case.unconditional, batched=False)),
        "diffusers_guided": lambda: case.theirs(stock, guided=True),
    }
    for saving in SAVINGS:
        loops[saving] = partial(case.ours, Undone.of(transformer, {saving}, case.text))
    results = {name: loop() for name, loop in loops.items()}
    differences = _check(results, chosen.tolerance if dtype == torch.float32 else 0.3)
    clock = _clock(device)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(chosen.rounds):
        for name in list(loops)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(_time(loops[name], clock, device))
    summary = {
        "size": size, "lanes": lanes, "device": device, "dtype": str(dtype).removeprefix("torch."),
        "clock": clock.__name__, "threads": torch.get_num_threads(), "denoise_steps": chosen.steps,
        "rounds": chosen.rounds, "weights": sum(p.numel() for p in transformer.parameters()),
        "tokens": case.noise.shape[1] * (case.noise.shape[3] // 2) * (case.noise.shape[4] // 2),
        "ratio_to_diffusers": _ratio(times, "diffusers", "ours"),
        "ratio_to_diffusers_guided": _ratio(times, "diffusers_guided", "ours_guided"),
        "ratios": {
            **{saving: _ratio(times, saving, "ours") for saving in SAVINGS},
            "no_unconditional_pass_at_scale_0": _ratio(times, "ours_guided_in_turn", "ours"),
            "branches_in_one_batch": _ratio(times, "ours_guided_in_turn", "ours_guided"),
        },
        "seconds": {name: median(values) for name, values in times.items()},
        "largest_difference": differences,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def table_of(summary: dict[str, Any]) -> Table:
    """The ratios as a table."""
    table = Table("saving", "times as fast")
    table.add_row("all, against diffusers' loop", f"{summary['ratio_to_diffusers']:.3f}")
    table.add_row(f"all, guided at scale {GUIDANCE:g}", f"{summary['ratio_to_diffusers_guided']:.3f}")
    for name, ratio in summary["ratios"].items():
        table.add_row(SAVINGS.get(name, name.replace("_", " ")), f"{ratio:.3f}")
    return table


def _make(size: Size, lanes: int, device: str, dtype: torch.dtype) -> tuple[ActionCosmosTransformer, Case]:
    frames, height, width = size.latent
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ActionCosmosTransformer(**size.config, action_features=0).eval().to(device)
        torch.nn.Module.to(transformer, dtype)  # both loops alike, and diffusers' own to() warns
        noise = torch.randn(lanes, frames, 16, height, width)
        context, texts = torch.randn(lanes, 1, 16, height, width), torch.randn(
            2, 1, size.text_tokens, size.config["crossattn_proj_in_channels"])
    text, unconditional = texts.to(device, dtype).unbind(0)
    return transformer, Case(context.to(device), noise.to(device), text, unconditional, size.steps)


def _check(results: dict[str, Tensor], tolerance: float) -> dict[str, float]:
    """Largest difference of each result from that of diffusers' loop."""
    differences = {}
    for name, result in results.items():
        reference = results["diffusers_guided" if "guided" in name else "diffusers"]
        differences[name] = float((result - reference).abs().max())
        if not differences[name] <= tolerance:  # NaN is a difference too
            raise RunError(f"{name} differs from diffusers' loop by {differences[name]:g}; allowed is {tolerance:g}")
    return differences


def _clock(device: str) -> Callable[[], float]:
    return process_time if device == "cpu" and torch.get_num_threads() == 1 else perf_counter


def _time(loop: Callable[[], Tensor], clock: Callable[[], float], device: str) -> float:
    began = clock()
    loop()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def _ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of one time over the other."""
    return median(a / b for a, b in zip(times[slow], times[fast], strict=True))
