"""Diffusers' own `Cosmos3OmniPipeline` on given parts, with a stand-in for its tokenizer: the oracle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler

from wcsim.backbones.cosmos3.tiny import PROMPTS
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL

PROMPT, NEGATIVE = "push it", "blurry"


class Tokenizer:
    """Answers a prompt with the token numbers of `PROMPTS`, whose last two are those that the pipeline adds."""

    eos_token_id: int

    def __init__(self) -> None:
        self.asked = list[list[dict[str, str]]]()

    def convert_tokens_to_ids(self, token: str) -> int:
        return PROMPTS[CONDITIONAL][-1]

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        self.asked.append(conversation)
        negative = conversation[-1]["content"] == NEGATIVE
        return SimpleNamespace(input_ids=list(PROMPTS[UNCONDITIONAL if negative else CONDITIONAL][:-2]))


def official_pipeline(omni: Any, vae: Any, *, native: bool = False, shift: float = 10.0) -> Any:
    """The pipeline with the scheduler of actions.  native: with the grid of NVIDIA's framework."""
    from diffusers import Cosmos3OmniPipeline

    tokenizer = Tokenizer()
    conditional, unconditional = PROMPTS[CONDITIONAL][-2:], PROMPTS[UNCONDITIONAL][-2:]
    assert conditional == unconditional, "the pipeline ends both prompts alike"
    tokenizer.eos_token_id = conditional[0]
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, use_karras_sigmas=False)
    pipeline = Cosmos3OmniPipeline(omni, tokenizer, vae, scheduler, enable_safety_checker=False,
                                   default_use_system_prompt=False, use_native_flow_schedule=native)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def official_chunk(
    pipeline: Any, picture: Any, actions: torch.Tensor, *, domain: str, tier: int, fps: float, steps: int,
    scale: float = 1.0, latents: torch.Tensor | None = None, mode: str = "forward_dynamics", output: str = "latent",
    generator: torch.Generator | None = None, chunk: int = 16,
) -> Any:
    """What the pipeline makes of one picture `[3, H, W]` in [0, 1] under actions as the network sees them."""
    from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import CosmosActionCondition

    condition = CosmosActionCondition(
        mode=mode, chunk_size=chunk, domain_name=domain, resolution_tier=tier, image=picture,
        raw_actions=actions if mode == "forward_dynamics" else None)
    return pipeline(PROMPT, NEGATIVE, action=condition, fps=fps, num_inference_steps=steps, guidance_scale=scale,
                    output_type=output, latents=latents, generator=generator)
