"""The command that looks for drift."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denograd_flows.options import EXIT_CODES, AsJson, Verbose
from denograd_flows.shell import opened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from denograd_tasks.watch.bookmark import Watched

DRIFT_HOLDS = 5
"""The exit code of a watch that found a drift, until a new version is published."""


def register(app: typer.Typer) -> None:
    """Make the command of this module a command of the app."""
    app.command(epilog=f"Example: `denograd watch denograd.yaml`. {EXIT_CODES}")(watch)


def watch(
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("denograd.yaml"),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare what arrived since the last look with what the newest version was made from."""
    with opened(as_json, verbose) as shell:
        from denograd_tasks.settings import load_settings

        settings = load_settings(config)
        shell.prepare()
        from denograd_flows.servers import require_prefect
        from denograd_flows.watch_flow import watch as look
        from denograd_tasks.store import open_store
        from denograd_tasks.versions import resolve

        require_prefect()
        resolve(open_store(settings.publish.root), settings.dataset)  # nothing published: here that is an error
        watched = look(settings)
        assert watched is not None
        shell.show(watched, drift_table)
        if watched.alarm is not None:
            raise typer.Exit(DRIFT_HOLDS)


def drift_table(watched: Watched) -> RenderableType:
    """The verdict, and below it what differs."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    style = "bold red" if watched.alarm is not None else "bold yellow" if watched.changed else "bold green"
    title = Text(watched.title, style)
    if not watched.told:
        return title
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("column", "kind", "effect", "rows", "p"):
        table.add_column(name, justify="right" if name in ("rows", "p") else "left", no_wrap=True)
    for one in watched.told:
        table.add_row(one.column, one.kind, f"{one.measure} {one.effect:.3g}", f"{one.rows:,}", f"{one.p:.1g}")
    return Group(title, table)
