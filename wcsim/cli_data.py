"""The `wcsim data` commands: what is in recordings, what is wrong with them, and conversions.

Easy to get wrong: `check` ends with code 1 where it finds a fault, and with 2 where it cannot read at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from wcsim.errors import ConfigError
from wcsim.progress import progress
from wcsim.terminal import console, one_line_errors

if TYPE_CHECKING:
    from wcsim.data.likeness import Like
    from wcsim.data.recordings import Recordings
    from wcsim.data.summary import Summary

data = typer.Typer(help="Recordings: what is in them, what is wrong with them, conversions.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="PATH", help="A folder, an .npz file, or repo_id@revision on the Hub.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second, instead of what the files say.")]
Form = Annotated[str | None, typer.Option("--format", help="Of PATH: lerobot, cosmos or npz; found out if left out.")]


@data.command("inspect")
def inspect_command(
    path: Source, fps: Fps = None, form: Form = None,
    out: Annotated[Path | None, typer.Option(help="Directory for recordings.html, with frames and histograms.")] = None,
) -> None:
    """Print what recordings hold: episodes, cameras, ranges of actions and state; with --out, make a page, too."""
    with one_line_errors():
        from wcsim.data.recordings import open_recordings
        from wcsim.data.summary import summarise

        recordings = open_recordings(path, form=form, fps=fps)
        told = summarise(recordings)
        facts, numbers = Table("", str(path)), Table("", "name", "least", "5%", "median", "95%", "most")
        for row in told.facts:
            facts.add_row(*row)
        for kind, name, *values in told.numbers:
            numbers.add_row(kind, name, *(f"{value:.4g}" for value in values))
        console.print(facts, numbers)
        for line in told.left_out:
            console.print(f"left out: {line}", soft_wrap=True)
        if out is not None:
            console.print(f"page: {write_page(recordings, told, path, out)}", soft_wrap=True)


@data.command("check")
def check_command(
    path: Source, fps: Fps = None, form: Form = None,
    like: Annotated[str | None, typer.Option(help="Other recordings, or a world, with which fps, scale and signs must "
                                                  "agree.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for check.json.")] = Path("runs/data-check"),
    look: Annotated[bool, typer.Option("--frames/--no-frames", help="Decode all frames, too.")] = True,
) -> None:
    """Find what is wrong with recordings; exit code 1 where something is, 2 where there are none."""
    with one_line_errors():
        from wcsim.data.check import check, write_check
        from wcsim.data.faults import Fault
        from wcsim.data.recordings import find_reader, open_recordings
        from wcsim.errors import DataError

        other = None if like is None else like_of(like)
        _, folder = find_reader(path, form)
        with progress("episodes") as shown:
            try:
                faults = check(open_recordings(folder, form=form, fps=fps), other, look=look, progress=shown.count)
            except DataError as error:  # of all episodes: nothing else can be looked at
                faults = [Fault.of(error)]
        written = write_check(faults, out)
        table = Table("fault", "episode", "what")
        for fault in faults:
            table.add_row(fault.kind, fault.episode or "all", fault.detail)
        if faults:
            console.print(table)
        count = "1 fault" if len(faults) == 1 else f"{len(faults) or 'no'} faults"
        console.print(f"{count}: {written}", soft_wrap=True)
    if faults:
        raise typer.Exit(1)


@data.command("convert")
def convert_command(
    path: Source, out: Annotated[Path, typer.Argument(help="The folder to make.")],
    fps: Fps = None, form: Form = None,
    to: Annotated[str, typer.Option(help="lerobot (v3.0) or npz.")] = "lerobot",
    resample: Annotated[float | None, typer.Option(help="Frames per second wanted, a whole divisor.")] = None,
    size: Annotated[str | None, typer.Option(help="Frames wanted, as HEIGHTxWIDTH.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop or squash, where proportions change.")] = None,
    actions: Annotated[str | None, typer.Option(help="change or absolute, to join actions when resampling.")] = None,
    cameras: Annotated[list[str] | None, typer.Option("--camera", help="One of several; may be repeated.")] = None,
    episodes: Annotated[list[str] | None, typer.Option("--episode", help="One of several; may be repeated.")] = None,
) -> None:
    """Write recordings in another format, changed only as asked; goes on where it was stopped."""
    with one_line_errors():
        from wcsim.data.convert import convert
        from wcsim.data.recordings import open_recordings
        from wcsim.data.views import ViewOptions

        options = ViewOptions(resample, parse_size(size), fit, actions,  # type: ignore[arg-type]  # checked there
                              tuple(cameras) if cameras else None, tuple(episodes) if episodes else None)
        with progress("episodes") as shown:
            convert(open_recordings(path, form=form, fps=fps), out, options,
                    form=to, progress=shown.count)  # type: ignore[arg-type]  # checked there
        console.print(f"written: {out}", soft_wrap=True)


def write_page(recordings: Recordings, told: Summary, title: str, out: Path) -> Path:
    """The page of recordings, in a folder."""
    from wcsim.data.summary import all_values, some_frames
    from wcsim.report.recordings import write_recordings

    return write_recordings(
        out, title=title, facts=told.facts, left_out=told.left_out, frames=some_frames(recordings),
        values=all_values(recordings), lengths=np.array([row.frames for row in recordings.episodes]))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """96x128 as (96, 128).  ConfigError for anything else."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigError(f"size {text!r} is not HEIGHTxWIDTH, as 96x128")
    return int(height), int(width)


def like_of(name: str) -> Like:
    """What to compare with: a world by name or folder, else recordings."""
    from wcsim.data.faults import Numbers
    from wcsim.data.likeness import Like
    from wcsim.data.recordings import HUB_NAME, Signal, open_recordings

    path = Path(name)
    if (path / "world.json").is_file() or not (path.exists() or HUB_NAME.fullmatch(name)):
        from wcsim.world.checkpoints import find_world, read_description

        spec, _ = read_description(find_world(name))
        action = Signal(spec.action.names, spec.action.units, spec.action.low, spec.action.high, spec.action.absolute)
        return Like(spec.name, spec.fps, action)
    other = open_recordings(name)
    episodes = [other.episode(number) for number in range(min(len(other.episodes), 200))]
    return Like(name, other.spec.fps, other.spec.action,
                Numbers.gather(episodes, other.spec.action, other.spec.state))
