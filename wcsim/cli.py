"""The `wcsim` command.  It parses, shows progress and reports errors in one line; all work is in `experiments`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from wcsim.errors import WcsimError

app = typer.Typer(
    help="Closed-loop robot simulation inside Cosmos video world models.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)
bench = typer.Typer(help="Measure a world.", no_args_is_help=True)
app.add_typer(bench, name="bench")
console = Console()

Overrides = Annotated[
    list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn wcsim's own errors into a message and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except WcsimError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {error}", soft_wrap=True)
        raise typer.Exit(2) from error


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged configuration.")],
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="New run directory; runs/NAME by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole episode in --out.")] = False,
) -> None:
    """Run an experiment and write its report."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig

        typed = validate(ClosedLoopConfig, override(read_yaml(config), settings or []))
        path = out or Path("runs") / typed.name
        experiment = ClosedLoop(typed)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("episodes", total=typed.episodes * typed.max_steps)

            def show(episode: int, step: int) -> None:
                progress.update(bar, completed=episode * typed.max_steps + step,
                                description=f"episode {episode + 1}/{typed.episodes}, step {step + 1}")

            experiment.run(path, resume=resume, on_step=show)
            progress.update(bar, completed=typed.episodes * typed.max_steps)
    report(path)


@app.command()
def report(path: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write report.html and the videos of a run from what is on disk."""
    with one_line_errors():
        from wcsim.report.page import write_report

        console.print(f"report: {write_report(path)}", soft_wrap=True)


@app.command()
def worlds(
    paths: Annotated[list[Path] | None, typer.Argument(help="World folders besides the shipped ones.")] = None,
) -> None:
    """List worlds and verify their hashes; exit code 2 if one does not match."""
    with one_line_errors():
        from wcsim.world.checkpoints import read_description, shipped_worlds, verify_hashes

        table = Table("world", "task", "frame", "latent", "context", "chunk", "files", "folder")
        for folder in [*shipped_worlds().values(), *(paths or [])]:
            verify_hashes(folder)
            spec, hashes = read_description(folder)
            table.add_row(
                spec.name, spec.task, "x".join(map(str, spec.frame_size)), "x".join(map(str, spec.latent_shape)),
                f"1-{spec.max_context}", f"1-{spec.max_chunk}", f"{len(hashes)} verified", str(folder),
            )
        console.print(table)


@bench.command("world")
def bench_world(
    world: Annotated[str, typer.Option(help="A shipped world's name or a folder.")] = "pusht-96",
    first_seed: Annotated[int, typer.Option(help="First held-out seed.")] = 600_000,
    episodes: Annotated[int, typer.Option(min=2, help="How many.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoise steps; the world's default if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/bench-world"),
) -> None:
    """Measure a world against the truth on held-out episodes: replayed actions, errors by horizon."""
    with one_line_errors():
        from wcsim.experiments.world_bench import measure_world, table_of

        summary = measure_world(world, first_seed=first_seed, episodes=episodes, steps=steps, out=out)
        console.print(table_of(summary))


if __name__ == "__main__":
    app()
