"""The command that writes a site over what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denograd_flows.options import AsJson, Root, Verbose
from denograd_flows.shell import opened


def register(app: typer.Typer) -> None:
    """Make the command of this module a command of the app."""
    app.command(epilog="Examples: `denograd catalog --open` · `denograd catalog --output public`")(catalog)


def catalog(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Default: .denograd/catalog.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a site over everything that is published: versions over time, gates, drift, reports and lineage.

    It is made of manifests and small records alone, needs no server, and replaces the one that was there.
    """
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import published
        from denograd_tasks.catalog.site import write_site
        from denograd_tasks.home import home

        site = write_site(published(root), output or home() / "catalog")
        if open_it:
            typer.launch(site.index)
        if as_json:
            shell.result(vars(site))
            return
        shell.say(f"{site.index}: {_counted(site.datasets, 'data set')}, {_counted(site.versions, 'version')}")
        for dataset, problems in site.amiss.items():
            typer.echo(f"{dataset}: {'; '.join(problems)}; see: denograd verify {dataset} --all", err=True)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
