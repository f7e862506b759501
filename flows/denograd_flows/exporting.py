"""The command that hands a published version to readers outside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from denograd_flows.options import EXIT_CODES, AsJson, Named, Root, Verbose
from denograd_flows.shell import opened

if TYPE_CHECKING:
    from denograd_tasks.exporting import Exported

EXAMPLES = (
    "Examples: `denograd export parkinsons@3 --to csv` · `denograd export parkinsons --to arrow --columns HNR "
    f"--columns PPE --output two.arrow` · `denograd export parkinsons --to delta`. {EXIT_CODES}"
)


def register(app: typer.Typer) -> None:
    """Make the command of this module a command of the app."""
    app.command(epilog=EXAMPLES)(export)


def export(
    name: Named,
    to: Annotated[Literal["csv", "arrow", "delta"], typer.Option("--to", help="The format; delta is an extra.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file, or the folder of a Delta table; default: NAME@N.csv, NAME@N.arrow, or a folder NAME.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", metavar="COLUMN", help="Only this one; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    root: Root = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a published version as CSV, as an Arrow file, or into a Delta table.

    An earlier export into a Delta table stays readable as an earlier version of it. Delta tables have no order of rows.
    """
    with opened(as_json, verbose) as shell:
        from denograd_flows.library import published
        from denograd_tasks.exporting import export as export_version
        from denograd_tasks.versions import resolve

        store = published(root)
        manifest = resolve(store, name)
        version = f"{manifest.dataset}@{manifest.number}"
        place = output or Path(manifest.dataset if to == "delta" else f"{version}.{to}")
        rows = sum(file["rows"] for file in manifest.content["files"])
        with shell.counting(f"Export {version}", rows) as tell:
            exported = export_version(store, manifest, to, place, columns or (), force, tell)
        shell.result(vars(exported)) if as_json else shell.say(_in_words(exported))


def _in_words(exported: Exported) -> str:
    shape = f"{exported.rows:,} rows x {len(exported.columns)} columns"
    which = "" if exported.delta_version is None else f", version {exported.delta_version} of the Delta table"
    return f"{exported.dataset}@{exported.version}: {shape} in {exported.path}{which}"
