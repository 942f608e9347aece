"""Prompts to the features that Cosmos-Predict2.5 reads, by its own text encoder (Cosmos-Reason1, a Qwen2.5-VL).

Needs the package `transformers` (`pip install wcsim[text]`), which nothing else imports, and 16 GB of weights.  With
features at hand you need neither.  Easy to get wrong: the prompt is filled up to its full length and the filling is
read like the rest, no mask given; and all hidden layers count, each token of each normalised, but not the embedding.

Shape suffixes: N prompts, S tokens, E features (28 layers of 3584 in the released encoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wcsim.errors import CheckpointError
from wcsim.world.guardrail import Guardrail

MAX_TOKENS = 512
SYSTEM = "You are a helpful assistant who will provide prompts to an image generator."
"""The system prompt before every prompt that the model was trained on."""

PARTS = ("text_encoder", "tokenizer")
"""Subfolders of a model in diffusers' layout."""


def load_encoder(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Encoder and tokenizer from the subfolders of a model in diffusers' layout; CheckpointError where they or
    `transformers` are missing."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise CheckpointError(f"prompts need the package transformers ({error}): pip install wcsim[text], or give "
                              "features that were computed elsewhere") from error
    encoder, tokenizer = (folder / part for part in PARTS)
    try:
        read = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
            encoder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        return read.to(device).eval(), transformers.AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no text encoder: {error}") from error


@torch.no_grad()
def encode_prompts(
    encoder: Any, tokenizer: Any, prompts: Sequence[str], *, max_tokens: int = MAX_TOKENS,
    guardrail: Guardrail | None = None,
) -> Tensor:
    """Features `[N, S, E]` in the dtype of the encoder; GuardrailError where the guardrail refuses a prompt."""
    for prompt in prompts:
        if guardrail is not None:
            guardrail.check_prompt(prompt)
    tokens_NS = torch.stack([read_tokens(tokenizer, prompt, max_tokens) for prompt in prompts])
    layers = encoder(tokens_NS.to(encoder.device), output_hidden_states=True).hidden_states[1:]
    normed = [(x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8) for x in layers]
    return torch.cat(normed, dim=-1).to(encoder.dtype)


def read_tokens(tokenizer: Any, prompt: str, max_tokens: int) -> Tensor:
    """Token numbers `[S]` of a prompt within the conversation that the encoder expects, S = max_tokens."""
    turns = [{"role": role, "content": [{"type": "text", "text": text}]}
             for role, text in (("system", SYSTEM), ("user", prompt))]
    tokens = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=False, add_vision_id=False, max_length=max_tokens, truncation=True,
        padding="max_length",
    )
    return torch.tensor(tokens if isinstance(tokens, list) else tokens["input_ids"], dtype=torch.int64)
