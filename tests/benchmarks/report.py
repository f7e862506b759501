"""What `.bench/speed.json` holds, as a table for the terminal and one for the README."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import in_words

RELEASES = ("1.1.0", "2.0.0")


@dataclass(frozen=True)
class Comparison:
    """A published release beside ours.

    Attributes:
        milliseconds: An epoch, median.
        faster: How many times faster ours is.
        wanted: How many times faster it must be; None if that is not asked.
    """

    milliseconds: float
    faster: float
    wanted: float | None


@dataclass(frozen=True)
class Line:
    """One line of the table. Times are milliseconds an epoch.

    Attributes:
        spread: Shortest and longest repetition of ours.
        most: How many times faster than a release the floor is, at most.
    """

    title: str
    shape: str
    epochs: int
    repetitions: int
    ours: float
    spread: tuple[float, float]
    floor: float
    floor_at_most: float | None
    peers: dict[str, Comparison]

    @property
    def ratio(self) -> float:
        return self.ours / self.floor

    @property
    def met(self) -> bool | None:
        """Whether all that was asked holds; None if nothing was."""
        asked = [] if self.floor_at_most is None else [self.ratio <= self.floor_at_most]
        asked += [peer.faster >= peer.wanted for peer in self.peers.values() if peer.wanted is not None]
        return all(asked) if asked else None


def lines(report: dict[str, Any]) -> Iterator[Line]:
    for work in report["works"]:
        floor = median(_milliseconds(work["floor"]))
        for claim in work["claims"]:
            ours = _milliseconds(claim)
            peers = {}
            for release, wanted in claim["faster"].items():
                timing = work["peers"].get(release)
                if timing is not None and timing["seconds"]:
                    theirs = median(_milliseconds(timing))
                    peers[release] = Comparison(theirs, theirs / median(ours), wanted)
            yield Line(
                claim["title"],
                work["shape"],
                claim["epochs"][0],
                len(ours),
                median(ours),
                (min(ours), max(ours)),
                floor,
                claim["floor_at_most"],
                peers,
            )


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What the table cannot say."""
    for work in report["works"]:
        floor = median(_milliseconds(work["floor"]))
        timings = {"the floor": work["floor"], **work["peers"]}
        found = [f"floor at batches of {work['floor']['batch_size']:,}"]
        for name, timing in timings.items():
            if timing["error"]:
                found.append(f"{name} failed: {timing['error']}")
            elif timing["epochs"] and timing["epochs"][0] < work["epochs"]:
                found.append(f"{name} {len(timing['seconds'])} times {timing['epochs'][0]} epochs a repetition")
            if name != "the floor" and timing["seconds"]:
                theirs = median(_milliseconds(timing))
                found.append(f"{name} {_brief(theirs)} ms, {theirs / floor:.1f} times the floor")
            if "to_its_end" in timing:
                end = timing["to_its_end"]
                found.append(f"{name} to its own end, once: {end['epochs']} epochs, {end['seconds']:.2f} s")
        if work["to_the_end"]:
            found += [
                f"ours to the end: {claim['epochs'][0]} epochs, {median(claim['seconds']):.2f} s"
                for claim in work["claims"]
            ]
        yield f"{work['name']}: " + "; ".join(found)
    for left in report["left_out"]:
        yield f"{left['name']} left out: {left['why']}"


def show(report: dict[str, Any], console: Console) -> None:
    quick = report["settings"]["quick"]
    console.print(in_words(report["machine"]))
    table = Table("work", "data", "epochs", "ours ms", "min-max", "floor ms", "ratio", "limit", pad_edge=False)
    for release in RELEASES:
        for title in (f"{release} ms", "times", "limit"):
            table.add_column(title, justify="right")
    table.add_column("met")
    for column in table.columns[2:8]:
        column.justify = "right"
    for line in lines(report):
        limit = "-" if line.floor_at_most is None else f"{line.floor_at_most:g}"
        spread = f"{_brief(line.spread[0])}-{_brief(line.spread[1])}"
        cells = [line.title, line.shape, str(line.epochs), _brief(line.ours), spread, _brief(line.floor)]
        cells += [f"{line.ratio:.2f}", limit]
        for release in RELEASES:
            cells += _beside(line.peers.get(release))
        table.add_row(*cells, "-" if quick else {True: "yes", False: "NO", None: "-"}[line.met])
    console.print(table)
    settings = report["settings"]
    console.print(
        f"Milliseconds an epoch, medians of {settings['repetitions']} interleaved repetitions after a warm-up. "
        "Ours is the whole call, frame in and frame out; the floor is forward and backward to the input alone. "
        "Those that ran fewer epochs than ours in a repetition are compared by the time of an epoch. "
        "The target is one of the columns."
    )
    if quick:
        console.print("The data were tiny: these times say nothing, and what is asked does not apply to them.")
    for note in notes(report):
        console.print("- " + note)


def markdown(report: dict[str, Any]) -> str:
    """The README's table."""
    head = ["work", "ours, ms an epoch", "floor", "ratio", *(f"denograd {release}" for release in RELEASES)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for line in lines(report):
        peers = [line.peers.get(release) for release in RELEASES]
        beside = ["-" if peer is None else f"{_brief(peer.milliseconds)} ({peer.faster:.1f}x)" for peer in peers]
        name = f"{line.title}, {line.shape}, {line.epochs} epochs"
        rows.append([name, _brief(line.ours), _brief(line.floor), f"{line.ratio:.2f}", *beside])
    rendered = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    repetitions = report["settings"]["repetitions"]
    return f"{rendered}\n\nMedians of {repetitions} interleaved repetitions. {in_words(report['machine'])}.\n"


def _milliseconds(timing: dict[str, Any]) -> list[float]:
    pairs = zip(timing["seconds"], timing["epochs"], strict=True)
    return [seconds * 1000 / epochs for seconds, epochs in pairs]


def _beside(peer: Comparison | None) -> list[str]:
    if peer is None:
        return ["-", "-", "-"]
    wanted = "-" if peer.wanted is None else f"{peer.wanted:g}"
    return [_brief(peer.milliseconds), f"{peer.faster:.1f}", wanted]


def _brief(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
