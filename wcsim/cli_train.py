"""The `wcsim train` command: recordings in, a world out, from nothing or from another world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wcsim.errors import ConfigError
from wcsim.progress import progress
from wcsim.terminal import Allow, Overrides, console, one_line_errors

FINETUNE = "finetune"
"""The packaged recipe of `--from`."""


def train(
    recipe: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a packaged recipe; with --from, "
                                                      f"{FINETUNE} by default.")] = None,
    settings: Overrides = None,
    base: Annotated[str | None, typer.Option("--from", metavar="WORLD", help="Fine-tune this world.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Recordings instead of the recipe's; may be repeated.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="For all stages together, instead of steps.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the networks; pays on a GPU.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder, new or to go on with; runs/train-WORLD by default.")] = None,
    allow: Allow = None,
) -> None:
    """Train a world from recordings, or fine-tune one; goes on where it was interrupted."""
    with one_line_errors(allow):
        from wcsim.config import override, read_yaml, validate
        from wcsim.train.finetune import finetune
        from wcsim.train.finetune_recipe import FineTune
        from wcsim.train.recipe import Recipe
        from wcsim.train.run import train as begin

        if recipe is None and base is None:
            raise ConfigError("say which recipe (`wcsim train train_recordings`), or which world to fine-tune (--from)")
        given = override(read_yaml(recipe or FINETUNE), settings or [])
        typed: Any
        run: Any
        if base is not None or "base" in given:
            typed, run = validate(FineTune, given if base is None else {**given, "base": base}), finetune
        else:
            typed, run = validate(Recipe, given), begin
        folder = out if out is not None else Path("runs") / f"train-{typed.world}"
        with progress("train") as shown:
            page = run(typed, folder, data=tuple(data or ()), minutes=minutes, device=device, compiled=compiled,
                       shown=shown, say=lambda text: console.print(text, soft_wrap=True, highlight=False))
        console.print(f"world: {folder / 'world'}\npage: {page}", soft_wrap=True)
