"""What `denograd reproduce` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from denograd_tasks.audit.reproduce import Reproduced


def reproduction(found: Reproduced) -> RenderableType:
    """Whether it came out again, where not, and what is other than it was."""
    made = "" if found.made_as == found.version else f", made as {found.made_as}"
    parts: list[RenderableType] = [Text(f"{found.version}{made}", style="bold"), _outcome(found)]
    moved = [(table, column) for table in found.tables for column in table.columns]
    if moved:
        listing = Table(box=None, padding=(0, 2), header_style="dim")
        for at, name in enumerate(("file", "column", "cells that differ", "largest, in std", "beyond tolerance")):
            listing.add_column(name, justify="right" if at > 1 else "left", no_wrap=True)
        for table, column in moved:
            largest = "–" if column.largest is None else f"{column.largest:.2g}"
            file = table.path.rsplit("/", 1)[-1]
            listing.add_row(file, column.name, f"{column.cells:,}", largest, f"{column.beyond:,}")
        parts.append(listing)
    if found.differences:
        parts.append(Text("  what is other than it was", style="dim"))
        for one in found.differences:
            parts.append(Text(f"    {one.what}: {one.then or 'not known'} then, {one.now or 'none'} now"))
    parts += [Text(f"  your own code took part, as it is now: {name}", style="dim") for name in found.code]
    return Group(*parts)


def _outcome(found: Reproduced) -> Text:
    if found.outcome == "identical":
        return Text(f"  ✓ identical, byte for byte: {len(found.tables)} tables", style="green")
    allowed = f"{found.tolerance:g} std, but for one cell in {found.strays:,} of a refined column"
    if found.outcome == "within tolerance":
        return Text(f"  ✓ not byte for byte, but within the tolerance: {allowed}", style="green")
    return Text(f"  ✗ different: beyond the tolerance of {allowed}", style="red")
