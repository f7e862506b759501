"""The live view of a run in a terminal: a line for each stage, with progress while it runs."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

NAMES = {
    "ingest": "Ingest",
    "check_input": "Check input",
    "train_backbone": "Train backbone",
    "refine": "Refine",
    "check_fidelity": "Check fidelity",
    "report": "Report",
    "publish": "Publish",
    "quarantine": "Quarantine",
}


class LiveView:
    """Draws the stages; where the output is no terminal, prints a line when a stage is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.running: str | None = None
        self.share: float | None = None
        self.text = ""
        self.since = time.monotonic()
        self.spinner = Spinner("dots", style="cyan")
        self.live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=self._draw)

    def __enter__(self) -> LiveView:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live.is_started:
            self.live.stop()
        if kind is not None and self.running:
            self.console.print(Text.assemble(("  ✗ ", "red"), f"{self.running:<16}", ("did not finish", "dim")))

    def started(self, stage: str) -> None:
        """A stage begins."""
        self._begin(NAMES.get(stage, stage))

    def advanced(self, stage: str, share: float, text: str) -> None:
        """The running stage has come this far."""
        self.share, self.text = share, text

    def finished(self, stage: str, text: str, reused: bool) -> None:
        """The running stage is done."""
        seconds = f"{time.monotonic() - self.since:6.1f} s"
        mark, note = ("↻", "reused") if reused else ("✓", seconds)
        line = Text.assemble(
            (f"  {mark} ", "cyan" if reused else "green"),
            f"{NAMES.get(stage, stage):<16}",
            (f"{note:>9}  ", "dim"),
            text,
        )
        self.console.print(line, highlight=False, soft_wrap=True)
        self._begin(None)

    def warned(self, text: str) -> None:
        """Something beside the work went wrong."""
        self.console.print(Text.assemble(("  ! ", "yellow"), text), highlight=False, soft_wrap=True)

    def _begin(self, name: str | None) -> None:
        self.running, self.share, self.text, self.since = name, None, "", time.monotonic()

    def _draw(self) -> Table | Text:
        if self.running is None:
            return Text("")
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [
            Text(" "),
            self.spinner,
            Text(f"{self.running:<15}"),
            Text(f"{time.monotonic() - self.since:6.1f} s", "dim"),
        ]
        if self.share is not None:
            cells.append(ProgressBar(total=1.0, completed=self.share, width=24))
        cells.append(Text(self.text, "dim", no_wrap=True, overflow="ellipsis"))
        row.add_row(*cells)
        return row
