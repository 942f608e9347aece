"""The command's own words: what is in brackets is printed, whoever wrote it."""

from __future__ import annotations

import errno
from contextlib import redirect_stdout
from io import StringIO

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from wcsim import cli, terminal
from wcsim.errors import ConfigError, RemoteError

SAID = "shape [2, 3] of [red]x[/] is not [A] or [/k] [link=http://x]:warning:\\"


@pytest.mark.parametrize("kind", [ConfigError, RemoteError])
def test_an_error_keeps_its_brackets(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, terminal.one_line_errors():
        raise kind(SAID)
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == f"error: {SAID}\n"


@pytest.mark.parametrize(("error", "told"), [
    (OSError(errno.ENOSPC, "No space left on device", "runs/x/steps.jsonl"),
     "No space left on device: runs/x/steps.jsonl; the same command goes on where this one stopped"),
    (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "Permission denied: runs/x"),
    (OSError(errno.EROFS, "Read-only file system", "runs"), "Read-only file system: runs"),
    (OSError("broken"), "broken"),
])
def test_what_the_machine_refuses_is_one_line(error: OSError, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, terminal.one_line_errors():
        raise error
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), terminal.one_line_errors():
        raise ZeroDivisionError


@pytest.mark.parametrize("arguments", [
    ["run", "[red]x[/].yaml"], ["evaluate", "[a]"], ["budget", "pusht_budget", "-s", "[bold]"], ["report", "[run]"],
    ["worlds", "verify", "[blue]"], ["bench", "cache", "[/x]"]])
def test_what_was_given_is_repeated_whole(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert arguments[-1] in result.stderr
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(("arguments", "told"), [
    ("bench forward --quick --device cuda:9", "device 'cuda:9' is not on this machine"),
    ("bench forward --quick --device tpu", "device 'tpu' is unknown; give cpu, cuda or cuda:N"),
    ("bench env --device cuda:9", "device 'cuda:9' is not on this machine"),
    ("bench world --first-seed -1", "greater than or equal to 0"),
    ("bench forward --quick --out /dev/null/x", "Not a directory: /dev/null/x"),
    ("tune pusht-96 --deadline-ms 5 -s steps=[]", "steps: List should have at least 1 item"),
    ("tune pusht-96 --deadline-ms 5 -s batches=[0]", "batches.0: Input should be greater than 0"),
    ("run pusht_mpc -s threads=100000", "threads: Input should be less than or equal to 1024"),
    ("budget pusht_budget -s deadlines_ms=[0]", "deadlines_ms.0: Input should be greater than 0"),
    ("budget pusht_budget -s deadlines_ms=[]", "deadlines_ms: Tuple should have at least 1 item"),
    ("evaluate pusht_evaluate -s policies.0.kind=hold", "override 'policies.0.kind=hold': policies is not a mapping"),
    ("worlds nowhere", "world 'nowhere' is neither a folder"),
])
def test_what_cannot_be_done_is_one_line_before_anything_is_measured(arguments: str, told: str) -> None:
    result = CliRunner().invoke(cli.app, arguments.split())
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_a_world_is_listed_by_its_name() -> None:
    result = CliRunner().invoke(cli.app, ["worlds", "pendulum-64"])
    assert result.exit_code == 0
    assert "pendulum-64" in result.output
    assert "pusht-96" not in result.output


def test_paths_and_tables_are_printed_as_they_are() -> None:
    screen = StringIO()
    table = Table("[red]name", title="[bold]world[/]")
    table.add_row(SAID)
    with redirect_stdout(screen):
        terminal.console.print(table)
        terminal.console.print("report: runs/[red]x/report.html", soft_wrap=True)
    for said in ("[red]name", "[bold]world[/]", SAID, "report: runs/[red]x/report.html"):
        assert said in screen.getvalue()
