"""The `wcsim bench` commands; all work is in `experiments`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wcsim.assets import DEFAULT_WORLD
from wcsim.progress import progress
from wcsim.terminal import Overrides, console, one_line_errors

bench = typer.Typer(help="Measure a world.", no_args_is_help=True)


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

        from wcsim.experiments.bench.forward import bench_forward, table_of

        dtype = torch.bfloat16 if half else torch.float32
        with progress("forward"):
            summary = bench_forward("quick" if quick else size, out=out, lanes=lanes, device=device, dtype=dtype)
        console.print(table_of(summary))


@bench.command("world")
def bench_world(
    world: Annotated[str, typer.Option(help="A shipped world's name or a folder.")] = DEFAULT_WORLD,
    first_seed: Annotated[int, typer.Option(min=0, help="First held-out seed.")] = 600_000,
    episodes: Annotated[int, typer.Option(min=2, help="How many.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoise steps; the world's default if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/bench-world"),
) -> None:
    """Measure a world against the truth on held-out episodes: replayed actions, errors by horizon."""
    with one_line_errors():
        from wcsim.experiments.bench.world import measure_world, table_of

        with progress("world") as shown:
            summary = measure_world(world, first_seed=first_seed, episodes=episodes, steps=steps, out=out,
                                    say=shown.say)
        console.print(table_of(summary))


@bench.command("env")
def bench_env_command(
    world: Annotated[str, typer.Option(help="A shipped world's name or a folder.")] = DEFAULT_WORLD,
    settings: Overrides = None,
    lanes: Annotated[int, typer.Option(min=1, help="Lanes of a batch, compared with as many single steps.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, help="Pairs of rounds.")] = 5,
    cache: Annotated[
        list[str] | None, typer.Option(help="Cache presets, or settings in YAML; wcsim and none if left out.")
    ] = None,
    starts: Annotated[int, typer.Option(min=1, help="Episodes in which chunks are compared with single steps.")] = 16,
    ticks: Annotated[int, typer.Option(min=1, help="Steps of each.")] = 8,
    fewer_steps: Annotated[int, typer.Option(min=1, help="Denoise steps to compare with the deadline, too.")] = 14,
    deadline_ms: Annotated[float, typer.Option(min=0, help="Time that a single step may take.")] = 100.0,
    compiled: Annotated[bool, typer.Option("--compiled", help="Make graphs of the world with torch.compile.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Directory for summary.json.")] = Path("runs/bench-env"),
) -> None:
    """Time an environment's step: what lanes save, what lies outside the model, and how far chunks are from steps.

    Settings are those of a fidelity, as -s steps=10 -s solver=dpm.
    """
    with one_line_errors():
        from wcsim.cache.fidelity import FidelityConfig
        from wcsim.config import override, validate
        from wcsim.experiments.bench.env import bench_env, tables_of

        fidelity = validate(FidelityConfig, override({}, settings or []))
        with progress("env"):
            summary = bench_env(world, out=out, lanes=lanes, rounds=rounds, fidelity=fidelity,
                                caches=cache or ["wcsim", "none"], starts=starts, ticks=ticks,
                                fewer_steps=fewer_steps, deadline_ms=deadline_ms, compiled=compiled, device=device)
        console.print(*tables_of(summary))


@bench.command("cache")
def bench_cache(
    config: Annotated[str, typer.Argument(help="A YAML file, or a packaged benchmark's name.")] = "bench_cache",
    settings: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="The packaged one that ends in two minutes.")] = False,
    out: Annotated[Path, typer.Option(help="Directory for summary.json and report.html.")] = Path("runs/bench-cache"),
) -> None:
    """Compare cache policies, solvers and step counts: measured speed against error."""
    with one_line_errors():
        from wcsim.config import override, read_yaml, validate
        from wcsim.experiments.bench.cache import run_cache_benchmark
        from wcsim.experiments.bench.cache_settings import CacheBenchConfig
        from wcsim.report.cache_benchmark import write_cache_benchmark

        given = read_yaml("bench_cache_quick" if quick else config)
        typed = validate(CacheBenchConfig, override(given, settings or []))
        with progress("cache benchmark") as shown:
            summary = run_cache_benchmark(typed, out, shown.say)
        console.print(f"report: {write_cache_benchmark(summary, out)}", soft_wrap=True)
