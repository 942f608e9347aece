"""The `wcsim` command.  It parses, shows progress and reports errors in one line; all work is in `experiments`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wcsim.errors import WcsimError
from wcsim.progress import counting, saying

app = typer.Typer(
    help="Closed-loop robot simulation inside Cosmos video world models.", no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)
bench = typer.Typer(help="Measure a world.", no_args_is_help=True)
app.add_typer(bench, name="bench")
worlds = typer.Typer(help="List worlds, or verify one.", invoke_without_command=True)
app.add_typer(worlds, name="worlds")
console = Console(width=None if sys.stdout.isatty() else 160)  # a file has no width to fit a table to

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
    out: Annotated[Path | None, typer.Option(help="Run directory, new or to go on with; runs/NAME by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to share goals among; a closed loop has one.")] = 1,
) -> None:
    """Run an experiment and write its report; goes on where it was interrupted."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.errors import ConfigError
        from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
        from wcsim.experiments.executor import local
        from wcsim.experiments.goals import GoalRuns, GoalsConfig

        given = override(read_yaml(config), settings or [])
        if given.get("kind") == "goals":
            goals = validate(GoalsConfig, given)
            path = out or Path("runs") / goals.name
            with counting("episodes") as show:
                GoalRuns(goals).run(path, executor=local(workers), on_piece=show)
        else:
            typed = validate(ClosedLoopConfig, given)
            if workers > 1:
                raise ConfigError(f"a closed loop plays its episodes in one process, given --workers {workers}")
            path, every = out or Path("runs") / typed.name, typed.episodes * typed.max_steps
            with counting("steps") as show:
                ClosedLoop(typed).run(path, on_step=lambda number, step: show(number * typed.max_steps + step, every))
                show(every, every)
    report([path])


@app.command()
def evaluate(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged evaluation's name.")] = "pusht_evaluate",
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, new or to go on with; runs/NAME by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to share the work.")] = 1,
) -> None:
    """Rank policies in the truth, in a world and in the cached world; goes on where it was interrupted."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
        from wcsim.experiments.executor import local

        typed = validate(EvaluationConfig, override(read_yaml(config), settings or []))
        path = out or Path("runs") / typed.name
        with counting("blocks") as show:
            Evaluation(typed).run(path, executor=local(workers), on_block=show)
    report([path])


@app.command()
def budget(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged sweep.")] = "pusht_budget",
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, new or to go on with; runs/NAME by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to share the work.")] = 1,
    recommend: Annotated[
        float | None, typer.Option(min=0, metavar="DEADLINE_MS", help="Print the setting to take, as a `run` config.")
    ] = None,
) -> None:
    """Sweep a planner's deadline and delay; goes on where it was interrupted."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.budget_config import BudgetConfig
        from wcsim.experiments.budget_sweep import BudgetSweep, advice
        from wcsim.experiments.executor import local

        typed = validate(BudgetConfig, override(read_yaml(config), settings or []))
        path = out or Path("runs") / typed.name
        with counting("episodes") as show:
            run = BudgetSweep(typed).run(path, executor=local(workers), on_piece=show)
        if recommend is not None:
            console.print(advice(run, recommend), markup=False, highlight=False, soft_wrap=True)
            return
    report([path])


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="A run directory, or several of one kind to compare.")],
    out: Annotated[Path, typer.Option(help="Where the comparison goes.")] = Path("comparison.html"),
) -> None:
    """Write the page of a run from what is on disk, or one page that compares several."""
    with one_line_errors():
        from wcsim.report.compare import write_comparison, write_page_of

        page = write_page_of(paths[0]) if len(paths) == 1 else write_comparison(paths, out)
        console.print(f"report: {page}", soft_wrap=True)


@worlds.callback()
def list_worlds(context: typer.Context) -> None:
    """List the shipped worlds and verify their hashes; exit code 2 if one does not match."""
    if context.invoked_subcommand is not None:
        return
    with one_line_errors():
        from wcsim.world.checkpoints import read_description, shipped_worlds, verify_hashes

        table = Table("world", "task", "frame", "latent", "context", "chunk", "labels", "files", "folder")
        for folder in shipped_worlds().values():
            verify_hashes(folder)
            spec, hashes = read_description(folder)
            table.add_row(
                spec.name, spec.task, "x".join(map(str, spec.frame_size)), "x".join(map(str, spec.latent_shape)),
                f"1-{spec.max_context}", f"1-{spec.max_chunk}", spec.labels, f"{len(hashes)} verified", str(folder),
            )
        console.print(table)


@worlds.command("verify")
def verify_worlds(
    names: Annotated[list[str], typer.Argument(help="Worlds by folder, or by name.")],
    steps: Annotated[int, typer.Option(min=4, help="Denoise steps of the trial.")] = 12,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Hashes, shapes and spec; then imagine under opposite actions: finite, and moved by them, the cache on and off."""
    with one_line_errors():
        from wcsim.cache import preset
        from wcsim.world.checkpoints import find_world
        from wcsim.world.verify import verify_world

        for name in names:
            found = verify_world(find_world(name), preset("wcsim").build(), preset("none").build(), steps=steps,
                                 device=device)
            console.print(
                f"{name}: {found.files} files as recorded, {found.weights:,} weights, spec and shapes agree.\n"
                f"All values are finite. Opposite actions move what it imagines by {found.sensitivity:.1%} of its "
                f"spread with the cache ({found.skipped:.0%} of the blocks skipped), by {found.uncached:.1%} without.\n"
                f"A lane needs about {found.need.total(1) / 1e9:.2g} GB beside the weights.", soft_wrap=True)


@bench.command("forward")
def bench_forward(
    size: Annotated[str, typer.Option(help="quick, middle or 2b.")] = "middle",
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes.")] = False,
    lanes: Annotated[int, typer.Option(min=1, help="Rollouts in a batch.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    half: Annotated[bool, typer.Option("--bfloat16", help="Compute in bfloat16.")] = False,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/bench-forward"),
) -> None:
    """Time our denoise loop against diffusers' own, on the same random weights; one ratio per saving."""
    with one_line_errors():
        import torch

        from wcsim.experiments.forward_bench import bench_forward, table_of

        dtype = torch.bfloat16 if half else torch.float32
        with console.status("forward"):
            summary = bench_forward("quick" if quick else size, out=out, lanes=lanes, device=device, dtype=dtype)
        console.print(table_of(summary))


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


@bench.command("env")
def bench_env_command(
    world: Annotated[str, typer.Option(help="A shipped world's name or a folder.")] = "pusht-96",
    lanes: Annotated[int, typer.Option(min=1, help="Lanes to set against as many single steps.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, help="Pairs of rounds.")] = 5,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoise steps; the world's default if left out.")] = None,
    solver: Annotated[str, typer.Option(help="Which solver takes them.")] = "euler",
    cache: Annotated[
        list[str] | None, typer.Option(help="Cache presets, or settings in YAML; wcsim and none if left out.")
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="Episodes in which chunks are compared with single steps.")] = 16,
    ticks: Annotated[int, typer.Option(min=1, help="Steps of each.")] = 8,
    fewer_steps: Annotated[int, typer.Option(min=1, help="Denoise steps to hold against the deadline, too.")] = 14,
    deadline_ms: Annotated[float, typer.Option(min=0, help="What a single step is held against.")] = 100.0,
    compiled: Annotated[bool, typer.Option("--compiled", help="Make graphs of the world with torch.compile.")] = False,
    context_refresh: Annotated[
        float, typer.Option(min=0, max=1, help="Fall of the noise level's root within which the context is kept.")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/bench-env"),
) -> None:
    """Time an environment's step: what lanes save, what lies outside the model, and how far chunks are from steps."""
    with one_line_errors():
        from wcsim.experiments.env_bench import bench_env, tables_of

        with console.status("env"):
            summary = bench_env(world, out=out, lanes=lanes, rounds=rounds, steps=steps,
                                caches=cache or ["wcsim", "none"], starts=starts, ticks=ticks,
                                fewer_steps=fewer_steps, deadline_ms=deadline_ms, solver=solver, compiled=compiled,
                                context_refresh=context_refresh)
        console.print(*tables_of(summary))


@bench.command("cache")
def bench_cache(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged race.")] = "bench_cache",
    settings: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="The packaged race that ends in two minutes.")] = False,
    out: Annotated[Path, typer.Option(help="Directory for summary.json and report.html.")] = Path("runs/bench-cache"),
) -> None:
    """Race cache policies, solvers and step counts: measured speed against error."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.cache_bench import run_race
        from wcsim.experiments.race import RaceConfig
        from wcsim.report.race import write_race

        typed = validate(RaceConfig, override(read_yaml("bench_cache_quick" if quick else config), settings or []))
        with saying("race") as say:
            summary = run_race(typed, out, say)
        console.print(f"report: {write_race(summary, out)}", soft_wrap=True)


@app.command()
def tune(
    world: Annotated[str, typer.Argument(help="A shipped world's name or a folder.")],
    deadline_ms: Annotated[float | None, typer.Option(min=0, help="Most milliseconds that a step may take.")] = None,
    max_error: Annotated[
        float | None, typer.Option(min=0, help="Most distance from the finely integrated frame, relative.")
    ] = None,
    config: Annotated[str, typer.Option(help="The race whose frontier is measured.")] = "tune",
    settings: Overrides = None,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/tune"),
) -> None:
    """Measure the frontier of a world on this machine and print the fidelity to use, as YAML."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.race import RaceConfig
        from wcsim.experiments.tuning import tune_world

        typed = validate(RaceConfig, override(read_yaml(config), [f"world={world}", *(settings or [])]))
        with saying("frontier") as say:
            advice = tune_world(typed, out, deadline_ms=deadline_ms, max_error=max_error, progress=say)
        console.print(advice, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
