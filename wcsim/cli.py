"""The `wcsim` command.  It parses, shows progress and reports errors in one line; all work is in `experiments`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import wcsim
from wcsim.cli_bench import bench
from wcsim.cli_data import data
from wcsim.cli_serve import serve
from wcsim.cli_train import train
from wcsim.progress import progress
from wcsim.terminal import (
    Allow,
    Device,
    Executor,
    Fork,
    Gpus,
    NamesToo,
    Overrides,
    Workers,
    console,
    one_line_errors,
    run_directory,
    with_device,
)

if TYPE_CHECKING:
    from wcsim.config import StrictConfig

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(bench, name="bench")
app.add_typer(data, name="data")
worlds = typer.Typer(help="List worlds, or verify one.", invoke_without_command=True, cls=NamesToo)
app.add_typer(worlds, name="worlds")
app.command()(serve)
app.command()(train)


def print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"wcsim {wcsim.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Say it.")] = False,
) -> None:
    """Closed-loop robot simulation inside Cosmos video world models."""


Out = Annotated[Path | None, typer.Option(help="Run directory, new or to go on with; runs/NAME by default.")]


def typed_config(name: str, settings: list[str] | None, command: str) -> StrictConfig:
    """The typed configuration of a command; ConfigError names the command that it is for, where it is for another."""
    from wcsim.config import override, read_yaml, validate
    from wcsim.errors import ConfigError
    from wcsim.experiments.budget_config import BudgetConfig
    from wcsim.experiments.closed_loop import ClosedLoopConfig
    from wcsim.experiments.evaluation import EvaluationConfig
    from wcsim.experiments.goals import GoalsConfig

    given = override(read_yaml(name), settings or [])
    models = {"run": GoalsConfig if given.get("kind") == "goals" else ClosedLoopConfig,
              "evaluate": EvaluationConfig, "budget": BudgetConfig}
    known = {other: set(given) <= set(model.model_fields) for other, model in models.items()}
    if not known[command] and any(known.values()):
        fitting = next(other for other, fits in known.items() if fits)
        raise ConfigError(f"{name} is a configuration of `wcsim {fitting}`, not of `wcsim {command}`")
    model: type[StrictConfig] = models[command]
    return validate(model, given)


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged configuration.")],
    settings: Overrides = None, out: Out = None, workers: Workers = None,
    executor: Executor = None, gpus: Gpus = None, device: Device = None, fork: Fork = False, allow: Allow = None,
) -> None:
    """Run a closed loop, or goals, and write its report; goes on where it was interrupted."""
    with one_line_errors(allow):
        from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
        from wcsim.experiments.executor import executor_of
        from wcsim.experiments.goals import GoalRuns, GoalsConfig

        typed = typed_config(config, with_device(settings, device), "run")
        where = executor_of(executor, workers, gpus)
        experiment: ClosedLoop | GoalRuns
        if isinstance(typed, GoalsConfig):
            experiment = GoalRuns(typed)
        else:
            assert isinstance(typed, ClosedLoopConfig)
            experiment = ClosedLoop(typed)
        path = run_directory(out, experiment.config.name, fork=fork)
        with progress("episodes") as shown:
            experiment.run(path, executor=where, progress=shown.count)
    report([path])


@app.command()
def evaluate(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged evaluation's name.")],
    settings: Overrides = None, out: Out = None, workers: Workers = None,
    executor: Executor = None, gpus: Gpus = None, device: Device = None, fork: Fork = False, allow: Allow = None,
) -> None:
    """Rank policies in the truth, in a world and in the cached world; goes on where it was interrupted."""
    with one_line_errors(allow):
        from wcsim.experiments.evaluation import Evaluation, EvaluationConfig
        from wcsim.experiments.executor import executor_of

        typed = typed_config(config, with_device(settings, device), "evaluate")
        where = executor_of(executor, workers, gpus)
        assert isinstance(typed, EvaluationConfig)
        path = run_directory(out, typed.name, fork=fork)
        with progress("batches") as shown:
            Evaluation(typed).run(path, executor=where, progress=shown.count)
    report([path])


@app.command()
def budget(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged sweep.")],
    settings: Overrides = None, out: Out = None, workers: Workers = None,
    executor: Executor = None, gpus: Gpus = None, device: Device = None, fork: Fork = False, allow: Allow = None,
    recommend: Annotated[
        float | None, typer.Option(min=0, metavar="DEADLINE_MS", help="Print the setting to take, as a `run` config.")
    ] = None,
) -> None:
    """Sweep a planner's deadline and delay; goes on where it was interrupted."""
    with one_line_errors(allow):
        from wcsim.experiments.budget_config import BudgetConfig
        from wcsim.experiments.budget_sweep import BudgetSweep, advice
        from wcsim.experiments.executor import executor_of

        typed = typed_config(config, with_device(settings, device), "budget")
        where = executor_of(executor, workers, gpus)
        assert isinstance(typed, BudgetConfig)
        path = run_directory(out, typed.name, fork=fork)
        with progress("episodes") as shown:
            run = BudgetSweep(typed).run(path, executor=where, progress=shown.count)
        if recommend is not None:
            console.print(advice(run, recommend), highlight=False, soft_wrap=True)
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


@app.command()
def status(path: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Say how far a run is, from any shell: jobs, time left, workers, and what failed."""
    with one_line_errors():
        from wcsim.experiments.watch import status_of

        found = status_of(path)
        console.print(f"{path}: {found.line}", soft_wrap=True, highlight=False)
        if found.workers:
            table = Table("worker", "jobs", "seconds a job")
            for where, jobs, seconds in found.workers:
                table.add_row(where, str(jobs), f"{seconds:.1f}")
            console.print(table)
        for name, error in found.told["failed"].items():
            console.print(f"failed: {name}: {error}", soft_wrap=True, highlight=False)


@worlds.callback()
def list_worlds(context: typer.Context) -> None:
    """List the shipped worlds and verify their hashes; exit code 2 if one does not match."""
    if context.invoked_subcommand is not None:
        return
    with one_line_errors():
        from wcsim.world.checkpoints import shipped_worlds

        print_worlds(shipped_worlds().values())


@worlds.command("show")
def show_worlds(names: Annotated[list[str], typer.Argument(help="Worlds by folder, or by name.")]) -> None:
    """List these worlds, as `wcsim worlds` lists the shipped ones; `show` may be left out."""
    with one_line_errors():
        from wcsim.world.checkpoints import find_world

        print_worlds([find_world(name) for name in names])


def print_worlds(folders: Iterable[Path]) -> None:
    """A table of worlds, their hashes verified."""
    from wcsim.world.checkpoints import read_description, verify_hashes

    table = Table("world", "task", "frame", "latent", "context", "chunk", "labels", "files", "folder")
    for folder in folders:
        verify_hashes(folder)
        spec, hashes = read_description(folder)
        table.add_row(spec.name, spec.task, "x".join(map(str, spec.frame_size)),
                      "x".join(map(str, spec.latent_shape)), f"1-{spec.max_context}", f"1-{spec.max_chunk}",
                      spec.labels, f"{len(hashes)} verified", str(folder))
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


@app.command()
def tune(
    world: Annotated[str, typer.Argument(help="A shipped world's name or a folder.")],
    deadline_ms: Annotated[float | None, typer.Option(min=0, help="Most milliseconds that a step may take.")] = None,
    max_error: Annotated[
        float | None, typer.Option(min=0, help="Most distance from the finely integrated frame, relative.")
    ] = None,
    config: Annotated[str, typer.Option(help="The cache benchmark whose frontier is measured.")] = "tune",
    settings: Overrides = None,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/tune"),
) -> None:
    """Measure the frontier of a world on this machine and print the fidelity to use, as YAML."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.bench.cache_settings import CacheBenchConfig
        from wcsim.experiments.bench.tuning import tune_world

        typed = validate(CacheBenchConfig, override(read_yaml(config), [f"world={world}", *(settings or [])]))
        with progress("frontier") as shown:
            advice = tune_world(typed, out, deadline_ms=deadline_ms, max_error=max_error, progress=shown.say)
        console.print(advice, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
