"""A matplotlib figure as inline SVG, in the page's own fonts and colours, which follow light and dark mode."""

import io
import re
from collections.abc import Callable
from html import escape
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each stand-in is a colour that nothing else uses, and becomes a CSS variable in the finished SVG.
OBSERVED, REFINED, INK, MUTED, RULE = "#010a01", "#010a02", "#010a03", "#010a04", "#010a05"
_VARIABLES = {
    OBSERVED: "var(--observed)",
    REFINED: "var(--refined)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": RULE,
    "axes.linewidth": 1,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "axes.formatter.limits": (-4, 6),
}
_GLOBAL_STYLE = Lock()


def render(name: str, label: str, size: tuple[int, int], draw: Callable[["Figure"], None]) -> str:
    """Draws a figure of `size` pixels and returns it as an `<svg>` element that scales to its container."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    raw = io.StringIO()
    with _GLOBAL_STYLE, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04)
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout=layout)
        draw(figure)
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(raw, format="svg", metadata=empty, transparent=True)
    return _inline(raw.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    view = re.search(r'viewBox="([^"]+)"', svg)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.S)
    body = body[body.index(">") + 1 :]
    used = set(re.findall(r"#([\w.-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), body)
    body = re.sub(r"\s+", " ", body).replace("> <", "><")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    box = view[1] if view else ""
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}'
