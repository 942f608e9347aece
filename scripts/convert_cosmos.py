"""Make a world of a released Cosmos robot model: NVIDIA's own files in, a folder that `World.load` takes out.

    python scripts/convert_cosmos.py nvidia/Cosmos-Predict2.5-2B/robot/action-cond
    python scripts/convert_cosmos.py nvidia/DreamDojo/2B-GR1 --weights FOLDER --statistics stats.json
    python scripts/convert_cosmos.py REFERENCE --prompt "a robot arm folds a towel" --negative "" --encoder FOLDER

Files that are not given are downloaded from the Hugging Face Hub, which asks for an account that has accepted their
licence; the commits that were found are written into the world, and `--revision` asks for one.  Weights are a `.pt`
file or a folder of torch's distributed format; they keep their dtype, and nothing in them is executed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from diffusers import AutoencoderKLWan
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from torch import Tensor

from wcsim.backbones.cosmos2.convert import action_form, build, read_embedding, rename
from wcsim.backbones.cosmos2.dreamdojo import action_spec, joint_ranges
from wcsim.backbones.cosmos2.prompts import PARTS, encode_prompts, load_encoder
from wcsim.backbones.cosmos2.reading import read_checkpoint
from wcsim.backbones.cosmos2.releases import BASE_REVISION, PREDICT_REPOSITORY, RELEASES, Release, fitted, world_home
from wcsim.errors import CheckpointError, WcsimError
from wcsim.world.checkpoints import check_spec, load_strictly, save_world
from wcsim.world.codec import ClipCodec
from wcsim.world.guardrail import default_guardrail
from wcsim.world.guidance import CONDITIONAL, UNCONDITIONAL


def convert(
    release: Release, weights: Path, texts: dict[str, Tensor], vae: Path, out: Path, source: dict[str, str]
) -> None:
    """Write the world of a release.  weights: a `.pt` file or a folder.  texts: prompt features by branch.  vae: a
    folder in diffusers' layout."""
    transformer = build(rename(read_checkpoint(weights)))
    spec = fitted(release.spec, action_form(
        transformer.config.action_features, release.spec.action.num_features, release.spec.frames_per_latent,
        release.spec.max_chunk,
    ))
    codec = ClipCodec(load_strictly(AutoencoderKLWan, vae), spec.canvas, spec.eight_bits)
    check_spec(spec, transformer, codec)
    for name, text in texts.items():
        if text.shape[-1] != transformer.text_width:
            raise CheckpointError(f"the {name} prompt has {text.shape[-1]} features; this model reads "
                                  f"{transformer.text_width}")
    save_world(out, spec, transformer, codec, dtype=None, texts=texts, source=source)


def fetch(repository: str, revision: str, *parts: str) -> Path:
    """Files or folders of a repository on the Hub, in a local folder whose name is the commit."""
    if not all(parts):
        raise CheckpointError(f"{repository} keeps weights in folders of torch's distributed format: download the "
                              "robot's, and give it as --weights")
    patterns = [pattern for part in parts for pattern in (part, f"{part}/*")]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, HfHubHTTPError) as error:
        raise CheckpointError(f"{', '.join(parts)} of {repository} ({revision}) cannot be downloaded: {error}. Its "
                              f"licence is accepted at https://huggingface.co/{repository}") from error
    for part in parts:
        if not (folder / part).exists():
            raise CheckpointError(f"{repository} ({revision}) has no {part}")
    return folder


def for_robot(release: Release, statistics: Path | None) -> Release:
    """A release with the actions of its robot, whose joints' ranges are in a file."""
    if not release.robot:
        return release
    if statistics is None:
        raise CheckpointError(f"the actions of robot {release.robot} are normalised by the least and most of its "
                              "joints, published beside its weights: give that file as --statistics")
    action = action_spec(release.robot, *joint_ranges(statistics, release.robot))
    return replace(release, spec=replace(release.spec, action=action))


def gather(arguments: argparse.Namespace, release: Release) -> tuple[dict[str, Path], dict[str, str]]:
    """Where every part lies on this machine, and where it came from."""
    places = {"weights": (release.repository, release.revision, release.weights), "text": release.text,
              "vae": release.vae}
    if arguments.prompt is not None:
        places["encoder"] = (PREDICT_REPOSITORY, BASE_REVISION, PARTS[0])
        del places["text"]
    found: dict[str, Path] = {}
    source: dict[str, str] = {}
    for part, (repository, revision, place) in places.items():
        given: Path | None = getattr(arguments, part)
        if given is None:
            both = PARTS if part == "encoder" else (place,)
            folder = fetch(repository, revision, *both)
            found[part] = folder if part == "encoder" else folder / place
            source[part] = f"{repository}@{folder.name}: {', '.join(both)}"
        else:
            found[part], source[part] = given, f"given: {given.name}"
    return found, source


def read_texts(arguments: argparse.Namespace, found: dict[str, Path]) -> dict[str, Tensor]:
    """The prompts as features: those of the prompts that were given, or the precomputed ones of the empty prompt."""
    if arguments.prompt is None:
        return {CONDITIONAL: read_embedding(found["text"])}
    prompts = {CONDITIONAL: arguments.prompt}
    prompts |= {} if arguments.negative is None else {UNCONDITIONAL: arguments.negative}
    encoder = load_encoder(found["encoder"], device=arguments.device)
    features = encode_prompts(*encoder, list(prompts.values()), guardrail=default_guardrail()).cpu()
    return {name: features[place : place + 1] for place, name in enumerate(prompts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", choices=list(RELEASES), help="the released model")
    parser.add_argument("--weights", type=Path, help="the transformer: a .pt file or a folder")
    parser.add_argument("--text", type=Path, help="the embedding of the empty prompt, a .pt file")
    parser.add_argument("--vae", type=Path, help="the autoencoder, a folder in diffusers' layout")
    parser.add_argument("--statistics", type=Path, help="min and max of the robot's joints, a JSON file")
    parser.add_argument("--prompt", help="a prompt in place of the empty one; needs transformers and the encoder")
    parser.add_argument("--negative", help="the prompt to guide away from, for fidelity.guidance above 0")
    parser.add_argument("--encoder", type=Path, help="folder with text_encoder and tokenizer in diffusers' layout")
    parser.add_argument("--device", default="cpu", help="where the text encoder runs")
    parser.add_argument("--revision", help="commit or branch of the weights' repository")
    parser.add_argument("--out", type=Path, help="the world's folder (default: where wcsim finds it)")
    arguments = parser.parse_args()
    release = RELEASES[arguments.reference]
    release = replace(release, revision=arguments.revision or release.revision)
    out = arguments.out or world_home() / release.spec.name
    try:
        if arguments.negative is not None and arguments.prompt is None:
            raise CheckpointError("--negative needs a --prompt")
        release = for_robot(release, arguments.statistics)
        found, source = gather(arguments, release)
        convert(release, found["weights"], read_texts(arguments, found), found["vae"], out, source)
    except WcsimError as error:
        raise SystemExit(f"error: {error}") from error
    Console().print(f"world: {out}\nverify it with: wcsim worlds verify {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
