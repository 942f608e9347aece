"""What the commands share: a console, errors in one line, overrides and run directories.

Easy to get wrong: text with brackets is text, so nothing goes through rich's markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from wcsim.errors import WcsimError
from wcsim.registry import only_allowed

# A file has no width to fit a table to.  Text is printed as it is: paths, names and settings may hold [brackets].
console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)

Overrides = Annotated[list[str] | None,
                      typer.Option("-s", "--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")]
Fork = Annotated[bool, typer.Option("--fork", help="Begin anew, beside an existing run directory: NAME-2, NAME-3, ...")]
Allow = Annotated[list[str] | None, typer.Option(
    "--allow", metavar="MODULE", help="Let the configuration load module:Class from here; may be repeated.")]

Workers = Annotated[int | None, typer.Option(
    min=1, help="Processes to share the work; 1 by default, and with --executor ray as many as there is room for.")]
Executor = Annotated[str | None, typer.Option(
    metavar="ray[://ADDRESS]", help="Share the work over Ray: on this machine, or on the cluster at an address.")]
Gpus = Annotated[float | None, typer.Option(
    min=0.01, help="GPUs of a worker, on a device of cuda: 0.5 lets two workers use one.")]
Device = Annotated[str | None, typer.Option(help="Short for -s device=DEVICE: cpu, cuda or cuda:N.")]


class NamesToo(TyperGroup):
    """Commands of which the first, `show`, is meant where a name stands in the place of a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """See click."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


def with_device(settings: list[str] | None, device: str | None) -> list[str]:
    """Overrides, with that of `--device`."""
    return [*(settings or []), *([] if device is None else [f"device={device}"])]


@contextmanager
def one_line_errors(allow: Iterable[str] | None = None) -> Iterator[None]:
    """Turn wcsim's own errors, and what the machine refuses (a full disk, a folder that is read-only), into a message
    and exit code 2; anything else is a bug and keeps its traceback.

    allow: modules that configurations may name; see `wcsim.registry.only_allowed`.
    """
    try:
        with only_allowed(allow or ()):
            yield
    except WcsimError as error:
        _tell(str(error))
        raise typer.Exit(2) from error
    except OSError as error:
        again = "; the same command goes on where this one stopped" if error.errno in (ENOSPC, EDQUOT) else ""
        where = f": {error.filename}" if error.filename else ""
        _tell(f"{error.strerror or error}{where}{again}")
        raise typer.Exit(2) from error


def _tell(problem: str) -> None:
    Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {problem}"), soft_wrap=True)


def run_directory(out: Path | None, name: str, *, fork: bool) -> Path:
    """The run directory; of a fork, a fresh one beside it, which is printed."""
    from wcsim.runs.run import fresh_sibling

    path = out or Path("runs") / name
    if fork:
        path = fresh_sibling(path)
        Console(stderr=True, highlight=False).print(f"new run in {path}; go on with it by --out {path}", soft_wrap=True)
    return path
