"""Make a world of a released Cosmos robot model: NVIDIA's own files in, a folder that `World.load` takes out.

    python scripts/convert_cosmos.py nvidia/Cosmos-Predict2.5-2B/robot/action-cond
    python scripts/convert_cosmos.py nvidia/DreamDojo/2B-GR1 --weights model.pt --text cr1_empty_string.pt --vae vae/

Files that are not given are downloaded from the Hugging Face Hub, which asks for an account that has accepted their
licence.  DreamDojo's are a directory of torch's distributed format, to be turned into one `.pt` first.  Weights keep
their dtype; nothing in a `.pt` is executed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import AutoencoderKLWan
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from wcsim.errors import CheckpointError
from wcsim.world.checkpoints import check_spec, load_strictly, save_world
from wcsim.world.codec import ClipCodec
from wcsim.world.convert import action_form, build, read_checkpoint, read_embedding, rename
from wcsim.world.cosmos import RELEASES, Release, fitted, world_home


def convert(release: Release, weights: Path, text: Path, vae: Path, out: Path) -> None:
    """Write the world of a release.  weights, text: `.pt` files.  vae: a folder in diffusers' layout."""
    transformer = build(rename(read_checkpoint(weights)))
    spec = fitted(release.spec, action_form(
        transformer.config.action_features, release.spec.action.dim, release.spec.frames_per_latent,
        release.spec.max_chunk,
    ))
    codec = ClipCodec(load_strictly(AutoencoderKLWan, vae))
    check_spec(spec, transformer, codec)
    embedding = read_embedding(text, transformer.text_width)
    save_world(out, spec, transformer, codec, dtype=None, texts={"conditional": embedding})


def fetch(repository: str, revision: str, pattern: str) -> Path:
    """A file or folder of a repository on the Hub, in its local cache."""
    if not pattern:
        raise CheckpointError(f"{repository} keeps its weights in torch's distributed format: download them, make one "
                              "file of them (python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
                              "FILE.pt), and give that as --weights")
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=[pattern, f"{pattern}/*"])
    except (OSError, HfHubHTTPError) as error:
        raise CheckpointError(f"{pattern} of {repository} ({revision}) cannot be downloaded: {error}. Its licence is "
                              f"accepted at https://huggingface.co/{repository}") from error
    found = Path(folder) / pattern
    if not found.exists():
        raise CheckpointError(f"{repository} ({revision}) has no {pattern}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", choices=list(RELEASES), help="the released model")
    parser.add_argument("--weights", type=Path, help="the transformer's .pt file")
    parser.add_argument("--text", type=Path, help="the embedding of the empty prompt, a .pt file")
    parser.add_argument("--vae", type=Path, help="the autoencoder, a folder in diffusers' layout")
    parser.add_argument("--out", type=Path, help="the world's folder (default: where wcsim looks)")
    arguments = parser.parse_args()
    release = RELEASES[arguments.reference]
    out = arguments.out or world_home() / release.spec.name
    try:
        weights = arguments.weights or fetch(release.repository, release.revision, release.weights)
        text = arguments.text or fetch(*release.text)
        vae = arguments.vae or fetch(*release.vae)
        convert(release, weights, text, vae, out)
    except CheckpointError as error:
        raise SystemExit(f"error: {error}") from error
    Console().print(f"world: {out}\nverify it with: wcsim worlds {out} --imagine", soft_wrap=True)


if __name__ == "__main__":
    main()
