"""A clip by a base model of Cosmos-Predict2.5 (2B or 14B), from text, an image or a video.

    python scripts/imagine_clip.py nvidia/Cosmos-Predict2.5-2B --prompt "a robot arm folds a towel" --out clip.mp4
    python scripts/imagine_clip.py FOLDER --features text.safetensors --image table.png --cache wcsim --out clip.mp4

The model is a folder in diffusers' layout, or a repository on the Hugging Face Hub whose licence you have accepted; of
it `transformer`, `vae` and `scheduler` are read, and the text encoder for `--prompt` alone.  Features computed
elsewhere are a safetensors file with `conditional`, and `unconditional` to guide away from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from convert_cosmos import fetch
from wcsim.backbones.cosmos2.base_clips import ClipRequest, imagine_clip
from wcsim.backbones.cosmos2.convert import load_base
from wcsim.backbones.cosmos2.prompts import PARTS, encode_prompts, load_encoder
from wcsim.backbones.cosmos2.releases import BASE_PARTS, BASE_REPOSITORIES, BASE_REVISION
from wcsim.cache import preset
from wcsim.errors import ConfigError, WcsimError
from wcsim.world.guardrail import default_guardrail
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL

FPS = 16


def read_texts(arguments: argparse.Namespace, folder: Path) -> dict[str, Tensor]:
    """Features `[1, S, E]` by branch."""
    if (arguments.prompt is None) == (arguments.features is None):
        raise ConfigError("give either --prompt or --features")
    if arguments.features is not None:
        return dict(load_file(arguments.features))
    prompts = [arguments.prompt, *([arguments.negative] if arguments.guidance else [])]
    encoder = load_encoder(folder, device=arguments.device)
    features = encode_prompts(*encoder, prompts, guardrail=default_guardrail())
    names = (CONDITIONAL, UNCONDITIONAL)[: len(prompts)]
    return {name: features[place : place + 1] for place, name in enumerate(names)}


def read_given(arguments: argparse.Namespace) -> np.ndarray | None:
    """Frames uint8 `[T, H, W, 3]` of the image or video, None without."""
    if arguments.image is not None and arguments.video is not None:
        raise ConfigError("give --image or --video, not both")
    if arguments.image is not None:
        return np.asarray(imageio.imread(arguments.image))[None, :, :, :3]
    return None if arguments.video is None else read_video(arguments.video)


def read_video(path: Path) -> np.ndarray:
    """Frames uint8 `[T, H, W, 3]`."""
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    capture.release()
    if not frames:
        raise ConfigError(f"{path} holds no video")
    return np.stack(frames)


def imagine(arguments: argparse.Namespace) -> None:
    """Load, imagine, write."""
    folder = Path(arguments.model)
    if not folder.is_dir():
        if arguments.model not in BASE_REPOSITORIES:
            known = ", ".join(BASE_REPOSITORIES)
            raise ConfigError(f"model {arguments.model!r} is neither a folder nor one of {known}")
        folder = fetch(arguments.model, arguments.revision, *BASE_PARTS, *(PARTS if arguments.prompt else ()))
    texts = read_texts(arguments, folder)
    transformer, codec = load_base(folder)
    transformer.set_precision(torch.bfloat16 if arguments.device != "cpu" else torch.float32)
    height, width = arguments.size
    request = ClipRequest(
        size=(height, width), frames=arguments.frames, steps=arguments.steps, guidance=arguments.guidance,
        guidance_until=arguments.guidance_until,
        seed=arguments.seed, decide=arguments.decide, batched=not arguments.in_turn,
        context_refresh=arguments.context_refresh,
    )
    frames, decisions = imagine_clip(
        (transformer.to(arguments.device), codec.to(arguments.device)), request, preset(arguments.cache).build(),
        text=texts[CONDITIONAL], unconditional=texts.get(UNCONDITIONAL), given=read_given(arguments),
        guardrail=default_guardrail(),
    )
    imageio.imwrite(arguments.out, frames, fps=FPS, macro_block_size=1)
    hits = sum(int(decision.hit[0]) for decision in decisions)
    Console().print(f"{arguments.out}: {len(frames)} frames; the cache skipped at {hits} of {len(decisions)} steps",
                    soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder in diffusers' layout, or a repository on the Hub")
    parser.add_argument("--revision", default=BASE_REVISION, help="commit or branch of the repository")
    parser.add_argument("--prompt", help="needs the package transformers and the text encoder")
    parser.add_argument("--negative", default="", help="the prompt to guide away from")
    parser.add_argument("--features", type=Path, help="safetensors in place of prompts")
    parser.add_argument("--image", type=Path, help="what the clip begins with")
    parser.add_argument("--video", type=Path, help="what the clip goes on from: its last 5 frames")
    parser.add_argument("--size", type=int, nargs=2, default=[704, 1280], metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=93, help="1 + 4 n")
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--guidance", type=float, default=7.0, help="0: the prompt alone, at half the cost")
    parser.add_argument("--guidance-until", type=float, default=0.0,
                        help="noise level below which the prompt goes on alone, at half the cost")
    parser.add_argument("--context-refresh", type=float, default=0.0,
                        help="fall of the noise level's root within which the context's keys and values are reused")
    parser.add_argument("--cache", default="none", help="a preset")
    parser.add_argument("--decide", choices=["together", "apart"], default="together",
                        help="whether the guided branches share the cache's decisions")
    parser.add_argument("--in-turn", action="store_true", help="branches one after the other, for half the memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("clip.mp4"))
    try:
        imagine(parser.parse_args())
    except WcsimError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
