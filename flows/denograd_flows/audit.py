"""The commands that answer an auditor: lineage, verify, diff, cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denograd_engine.errors import ConfigError
from denograd_flows.options import EXIT_CODES, AsJson, Named, Root, Verbose
from denograd_flows.shell import opened

NOT_AS_PUBLISHED = 4
"""The exit code of a verification that found something."""
EXAMPLES = {
    "lineage": "Examples: `denograd lineage parkinsons` · `denograd lineage parkinsons@3 --json`",
    "verify": "Examples: `denograd verify parkinsons@3` · `denograd verify parkinsons --all --public-key public.pem` · "
    f"`denograd verify parkinsons --expect-head 5f0c...`. {EXIT_CODES}",
    "diff": "Examples: `denograd diff parkinsons@2 parkinsons@3` · `denograd diff parkinsons@3 --source "
    "--where \"age > 60 AND sex = 'f'\" --to changes.parquet`",
    "cell": "Examples: `denograd cell parkinsons@3 --key id=123 --column HNR` · `denograd cell stations --time "
    '"2024-05-01 12:00" --key station=7 --column temperature` · `denograd cell nuclei --row 17 --column area`',
}

Versioned = Annotated[str, typer.Argument(metavar="NAME@N", help="A version; without a number, the newest.")]


def register(app: typer.Typer) -> None:
    """Make the commands of this module commands of the app."""
    for command in (lineage, verify, diff, cell):
        app.command(epilog=EXAMPLES[command.__name__])(command)


def lineage(name: Named, root: Root = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show the whole way of a version: source, model, refinement, gates, run and parent."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.audit_view import lineage_tree
        from denograd_flows.library import published
        from denograd_tasks.audit.lineage import lineage_of
        from denograd_tasks.versions import resolve

        store = published(root)
        shell.show(lineage_of(store, resolve(store, name)), lineage_tree)


def verify(
    name: Named,
    every: Annotated[bool, typer.Option("--all", help="Read the files of every version.")] = False,
    expect_head: Annotated[
        str | None,
        typer.Option("--expect-head", metavar="DIGEST", help="What the newest manifest's digest must be."),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="Every version must be signed with this Ed25519 key (PEM)."),
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Recompute every digest, and name whatever is not as it was published.

    The manifests of all versions are read each time, the files of one version, or of all. A newest version that was
    removed shows only by a digest from elsewhere: `denograd run --json` gives it as `manifest`, and MLflow keeps it as
    the tag `denograd.manifest` of the training run.
    """
    with opened(as_json, verbose) as shell:
        from denograd_flows.audit_view import findings
        from denograd_flows.library import published
        from denograd_tasks.audit.verify import verify as verify_versions

        verified = verify_versions(published(root), name, every, expect_head, public_key)
        shell.show(verified, findings)
        if not verified.intact:
            raise typer.Exit(NOT_AS_PUBLISHED)


def diff(
    first: Annotated[str, typer.Argument(metavar="NAME@A", help="A version; with --source, the one to look at.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[NAME@B]", help="The version that it is compared with.")
    ] = None,
    source: Annotated[bool, typer.Option("--source", help="Compare it with its own source instead.")] = False,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only rows for which this holds, before or after.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write the rows that differ: .parquet or .csv.")
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show which rows and cells differ between two versions, or between a version and its source."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.audit_view import differences
        from denograd_flows.library import published
        from denograd_tasks.audit.diff import diff_source, diff_versions
        from denograd_tasks.versions import resolve

        if (second is None) != source:
            raise ConfigError("two tables are compared", expected="two versions, or one and --source")
        store = published(root)
        one = resolve(store, first)
        found = diff_source(store, one, where, to) if second is None else None
        if second is not None:
            found = diff_versions(store, one, resolve(store, second), where, to)
        shell.show(found, differences)


def cell(
    name: Versioned,
    column: Annotated[str, typer.Option("--column", "-c", help="Of the cell.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="COLUMN=VALUE", help="What the row is found by; repeatable.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Of a series: the step; UTC unless it names a zone.")
    ] = None,
    row: Annotated[
        int | None, typer.Option("--row", min=0, help="The row's position, from 0, where no key is.")
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what became of one cell, why, and in which versions it was another."""
    with opened(as_json, verbose) as shell:
        from denograd_flows.audit_view import cell_facts
        from denograd_flows.library import published
        from denograd_tasks.audit.cell import cell_of
        from denograd_tasks.versions import resolve

        named, store = dict(map(_key, key or ())), published(root)
        manifest = resolve(store, name)
        if time is not None:
            series = manifest.content["settings"].get("series")
            if series is None:
                raise ConfigError(f"{name} is no series", where="--time", remedy="name the row by --key or --row")
            named[series["time"]] = time
        shell.show(cell_of(store, manifest, column, named, row), cell_facts)


def _key(given: str) -> tuple[str, str]:
    column, equals, value = given.partition("=")
    if not equals or not column:
        raise ConfigError("this names no row", expected="COLUMN=VALUE, such as id=123", found=column, where="--key")
    return column, value
