"""Correlation matrices as inline SVG: one path for each sign and strength, which stays small and sharp."""

from html import escape

import numpy as np

from denograd_tasks.report_page.cells import Floats
from denograd_tasks.report_page.formats import shorten

_LEVELS = 20
_CELL, _WIDTH = 16, 420
_CHARACTER = 6.4


def matrix(names: list[str], values: Floats, limit: float, label: str) -> str:
    """Draws a square matrix; strength is opacity, so that zero is the page itself in light and dark mode.

    Args:
        names: Labels of rows and columns.
        values: Shape (n, n); NaN is left out and drawn as a dot.
        limit: The absolute value that gets full strength.
        label: What it shows, for readers who do not see it.
    """
    size = len(names)
    labels = round(max(len(shorten(name)) for name in names) * _CHARACTER) + 12
    cell = max(_CELL, (_WIDTH - labels) // size)
    edge = size * cell
    strength = np.ceil(np.clip(np.abs(values) / limit, 0, 1) * _LEVELS)
    parts = []
    for sign, kind in ((1, "more"), (-1, "less")):
        for level in range(1, _LEVELS + 1):
            found = np.argwhere((strength == level) & (np.sign(values) == sign))
            if len(found):
                path = "".join(f"M{x * cell} {y * cell}h{cell}v{cell}h-{cell}z" for y, x in found)
                parts.append(f'<path class="{kind}" fill-opacity="{level / _LEVELS:g}" d="{path}"/>')
    parts += [
        f'<circle class="unknown" cx="{(x + 0.5) * cell:g}" cy="{(y + 0.5) * cell:g}" r="1.5"/>'
        for y, x in np.argwhere(np.isnan(values))
    ]
    texts = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        full = f"<title>{escape(name)}</title>{escape(shorten(name))}"
        texts.append(f'<text x="-7" y="{middle + 4:g}" text-anchor="end">{full}</text>')
        texts.append(
            f'<text transform="translate({middle + 4:g} {edge + 8}) rotate(-90)" text-anchor="end">{full}</text>'
        )
    total = edge + labels
    return (
        f'<svg class="matrix" viewBox="{-labels} -1 {total + 1} {total + 1}" role="img" aria-label="{escape(label)}">'
        f'<g shape-rendering="crispEdges">{"".join(parts)}<rect class="frame" width="{edge}" height="{edge}"/></g>'
        f"{''.join(texts)}</svg>"
    )
