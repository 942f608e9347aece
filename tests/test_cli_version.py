"""What the command says of itself; what its subcommands do is tested beside the experiments."""

from __future__ import annotations

from typer.testing import CliRunner

from wcsim import __version__
from wcsim.cli import app


def test_the_version_is_the_package_s() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"wcsim {__version__}\n")


def test_help_says_what_it_is_and_offers_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Closed-loop robot simulation inside Cosmos video world models." in result.output
    assert {"run", "evaluate", "budget", "report", "worlds", "bench", "tune", "--version"} <= set(result.output.split())
