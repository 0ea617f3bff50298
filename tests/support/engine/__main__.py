"""`python -m tests.support.engine start|stop|env`: the tests' Docker Engine by hand."""

from __future__ import annotations

from pathlib import Path

import click

from tests.support.engine import daemon
from tests.support.engine.rootfs import Unavailable


@click.group()
def main() -> None:
    """Start and stop the Docker Engine that the tests use where none answers."""


@main.command()
@click.option("--name", default="default")
@click.option("--minutes", default=60, show_default=True, help="It ends by itself after this time.")
@click.option("--network/--no-network", default=True, show_default=True, help="The machine's; one engine can have it.")
def start(name: str, minutes: int, network: bool) -> None:
    """Start it and print what a shell needs: eval "$(python -m tests.support.engine start)"."""
    try:
        found = daemon.start(name, keep=minutes * 60, network=network)
    except Unavailable as reason:
        raise click.ClickException(str(reason)) from reason
    click.echo(daemon.describe(found))


@main.command()
@click.option("--name", default="default")
def env(name: str) -> None:
    """Print what a shell needs to reach the one that is running."""
    if not daemon.running(name):
        raise click.ClickException("it is not running; start it with: python -m tests.support.engine start")
    click.echo(daemon.describe(daemon.start(name)))


@main.command()
@click.option("--name", default="default")
def stop(name: str) -> None:
    """Stop it and remove what it left."""
    click.echo("stopped" if daemon.stop(name) else "it was not running", err=True)


@main.command(hidden=True)
@click.option("--name", required=True)
@click.option("--root", required=True, type=click.Path(path_type=Path))
@click.option("--grace", required=True, type=float)
@click.option("--network/--no-network", required=True)
def serve(name: str, root: Path, grace: float, network: bool) -> None:
    daemon.serve(name, root, network=network, grace=grace)


if __name__ == "__main__":
    main()
