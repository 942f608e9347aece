"""The `wcsim serve` command; all work is in `wcsim.serve`.

Easy to get wrong: a token on the command line is seen by every user of the machine; `WCSIM_TOKEN` is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wcsim.terminal import console, one_line_errors


def serve(
    worlds: Annotated[list[str] | None, typer.Argument(help="Shipped worlds' names, or folders; the first is that of "
                                                       "clients who name none.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; another than this machine's own needs a token."
                                      )] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    device: Annotated[str, typer.Option(help="cpu, cuda, or several that share the lanes out, as cuda:0,cuda:1."
                                        )] = "cpu",
    cores: Annotated[int | None, typer.Option(min=1, help="On a CPU: cores that share the lanes out; all by default."
                                              )] = None,
    token: Annotated[str | None, typer.Option(envvar="WCSIM_TOKEN", show_envvar=True,
                                              help="What clients must send.")] = None,
    lanes: Annotated[int, typer.Option(min=1, help="Most sessions that share a forward.")] = 16,
    sessions: Annotated[int, typer.Option(min=1, help="Most sessions open at once.")] = 64,
    idle_s: Annotated[float, typer.Option(min=1, help="Seconds after which a quiet connection is dropped.")] = 600.0,
    task: Annotated[str | None, typer.Option(help="module:Class, where the world's task does not ship.")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A host name that clients may use; repeatable.")] = None,
    drivers: Annotated[str | None, typer.Option(help="A configuration whose policies may take over.")] = None,
    recordings: Annotated[Path | None, typer.Option(help="Folder that keeps what people record on the page.")] = None,
    watch: Annotated[Path | None, typer.Option(help="Folder of runs and trainings to show as they grow.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the world with torch.compile.")] = False,
) -> None:
    """Serve worlds to remote environments, and a page to drive them by hand."""
    with one_line_errors([task.partition(":")[0]] if task and ":" in task else None):
        _check_extra()
        from wcsim.errors import ConfigError
        from wcsim.serve.access import access_of
        from wcsim.serve.app import Service, make_server
        from wcsim.serve.drivers import drivers_in
        from wcsim.serve.limits import Limits
        from wcsim.serve.run import listen, run
        from wcsim.serve.sessions import Host

        if not worlds and watch is None:
            raise ConfigError("name a world to serve, or a folder of runs by --watch")
        access = access_of(host, token, allow_host or [])
        limits = Limits(lanes=lanes, sessions=sessions, sessions_each=min(sessions, 32), idle_s=idle_s)
        with listen(host, port) as opened:
            spread = _spread(device, cores, lanes)
            policies = None if drivers is None else drivers_in(drivers)
            hosts = [Host(world, limits, task=task, device=spread, compiled=compiled, drivers=policies)
                     for world in worlds or []]
            service = Service(hosts, access, limits=limits, recordings=recordings, watch=watch)
            opened.listen(128)  # who connects from here on waits, and is not refused
            _say_where(list(service.hosts), watch, host, opened.getsockname()[1], secret=token is not None)
            run(make_server(service, host=host, port=opened.getsockname()[1]), opened)


def _spread(device: str, cores: int | None, lanes: int) -> str:
    """The device once for each core that lanes are dealt out to."""
    from wcsim.errors import ConfigError

    if device != "cpu":
        if cores is not None:
            raise ConfigError(f"--cores is for --device cpu; it is {device}")
        return device
    return ",".join(["cpu"] * min(cores or usable_cores(), lanes))


def usable_cores() -> int:
    """CPU cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_extra() -> None:
    """ConfigError where the packages of the extra `serve` are not installed."""
    from importlib.util import find_spec

    from wcsim.errors import ConfigError

    missing = [name for name in ("starlette", "uvicorn", "websockets", "msgpack") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"wcsim serve needs {', '.join(missing)}: pip install 'wcsim[serve]'")


def _say_where(worlds: list[str], watch: Path | None, host: str, port: int, *, secret: bool) -> None:
    """Say which addresses to use."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    once = " (with ?token=... once)" if secret else ""
    if worlds:
        console.print(f"{', '.join(worlds)} is served. Open http://{place}/{once}", soft_wrap=True)
        console.print(f'In a program: gym.make("wcsim/Remote-v0", address="ws://{place}")', soft_wrap=True)
    if watch is not None:
        console.print(f"Runs in {watch} are shown at http://{place}/watch{once}", soft_wrap=True)
