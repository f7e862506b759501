"""The pages of the site as text: one for the root, one for each data set, one for each version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from denograd_tasks.catalog.charts import Points, Words, chart, sparkline
from denograd_tasks.catalog.drift import drift_of
from denograd_tasks.catalog.entries import Entry
from denograd_tasks.catalog.reading import Holding, Published
from denograd_tasks.report_page import formats
from denograd_tasks.report_page.way import sections, stations, way_of
from denograd_tasks.settings import without_credentials
from denograd_tasks.store import Store

SHOWN = 50
"""Versions of a data set that are listed at once; those before them unfold."""
INDEX = "index.html"


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: In the site.
        html: All of it.
    """

    path: str
    html: str


@dataclass(frozen=True)
class Figure:
    """A chart of the page of a data set.

    Attributes:
        title: What it shows.
        note: In what unit, or within what bound.
        svg: The chart; empty where there is nothing to show.
        before: Whether a second line shows what was before.
    """

    title: str
    note: str
    svg: str
    before: bool = False


class Links:
    """Addresses of files in the root, as the pages of a data set can link them.

    Args:
        store: The root.
        site: Where the site is going to be.
    """

    def __init__(self, store: Store, site: Path) -> None:
        self.root = without_credentials(store.root)
        self._prefix: str | None = None
        if store.local is not None:
            way = Path(os.path.relpath(store.local.resolve(), site.resolve() / folder("any")))
            self._prefix = f"{quote(way.as_posix())}/"
        elif self.root.startswith(("http://", "https://")):
            self._prefix = f"{self.root}/"

    def to(self, path: str) -> str | None:
        """The link to a file; None where a browser could not follow it."""
        return None if self._prefix is None else self._prefix + quote(path)


def pages(
    store: Store, found: Sequence[Holding], learnt: Mapping[str, str], site: Path, now: datetime
) -> Iterator[Page]:
    """Every page of the site.

    Args:
        store: The root.
        found: What it holds.
        learnt: The snapshots that models were trained on, by the models' URIs.
        site: Where the site is going to be.
        now: When it is made.
    """
    links, rows = Links(store, site), []
    for holding in found:
        entries = [one.entry for one in holding.versions]
        common = {"holding": holding, "links": links, "now": now, "depth": 2}
        context = {"drift": drift_of(holding), "figures": [one for one in _charts(entries) if one.svg], "shown": SHOWN}
        rows.append({"holding": holding, "drift": context["drift"], "spark": _spark(entries)})
        yield Page(f"{folder(holding.name)}/{INDEX}", _template("dataset").render(**common, **context))
        for before, one, after in _with_neighbours(holding.versions):
            html = _template("version").render(
                **common, **_facts(one, before, learnt), one=one, before=before, after=after
            )
            yield Page(f"{folder(holding.name)}/{one.entry.number}.html", html)
    total = sum(len(one.versions) for one in found)
    yield Page(
        INDEX, _template("root").render(rows=rows, now=now, total=total, depth=0, root=links.root, folder=folder)
    )


def folder(dataset: str) -> str:
    """Where the pages of a data set are."""
    return f"datasets/{dataset}"


def _with_neighbours(
    versions: Sequence[Published],
) -> Iterator[tuple[Published | None, Published, Published | None]]:
    yield from zip([None, *versions], versions, [*versions[1:], None], strict=False)


def _facts(one: Published, before: Published | None, learnt: Mapping[str, str]) -> dict[str, Any]:
    """What the page of a version shows besides its figures."""
    content, found = one.manifest.content, one.lineage
    if found.model.adopted:
        found = replace(found, model=replace(found.model, trained_on=learnt.get(found.model.uri)))
    if found.parent and before and before.entry.number == found.parent.number:
        found = replace(found, parent=replace(found.parent, created=before.lineage.created))
    way = way_of(found)
    told = sections(way)
    del told["Gates"]  # they have a table of their own
    files = {
        "data": content["files"],
        "snapshot": content["source"]["files"],
        "model": content["model"]["files"],
        "evidence": [one for one in content["evidence"] if "/docs/" not in one["path"]],
    }
    return {
        "stations": stations(way),
        "sections": told,
        "files": files,
        "settings": list(_flat(content["settings"])),
        "columns": content["schema"],
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their whole names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spark(entries: Sequence[Entry]) -> str:
    """What tells most about a data set over time, where there is not room for more."""
    removed = [one.removed for one in entries]
    if any(one is not None for one in removed):
        return sparkline("noise removed over time", removed)
    return sparkline("rows over time", [one.rows for one in entries])


def _charts(entries: Sequence[Entry]) -> Iterator[Figure]:
    """Everything that is worth following."""
    times, names = [one.created for one in entries], [f"version {one.number}" for one in entries]

    def over_time(title: str, note: str, values: Sequence[float | None], words: Words, **more: Any) -> Figure:
        return Figure(title, note, chart(title, Points(times, names, values), words, **more), "before" in more)

    def whole(value: float | None) -> str:
        return formats.count(round(value or 0))

    before, after = ([one.residual and one.residual[at] for one in entries] for at in (0, 1))
    yield over_time("Rows", "of the data set", [one.rows for one in entries], whole)
    removed = [one.removed for one in entries]
    yield over_time("Noise removed", "estimated, mean over columns", removed, formats.percent)
    yield over_time("Residual", "distance from the model, std", after, formats.std, before=before)
    yield over_time("Rows moved", "share of all", [one.moved for one in entries], formats.percent)
    yield over_time("Training skill", "held-out R², lowest target", [one.skill for one in entries], formats.ratio)
    for name in dict.fromkeys(gate.name for gate in chain.from_iterable(one.gates for one in entries)):
        gates = [next((gate for gate in one.gates if gate.name == name), None) for one in entries]
        told = [gate for gate in gates if gate is not None]
        if all(gate.passed and gate.value in (gate.minimum, gate.maximum) for gate in told):
            continue  # yes or no, and never no
        points = Points(
            times,
            names,
            values=[None if gate is None else gate.value for gate in gates],
            low=[None if gate is None else gate.minimum for gate in gates],
            high=[None if gate is None else gate.maximum for gate in gates],
            out=[gate is not None and not gate.passed for gate in gates],
        )
        yield Figure(f"Gate {name}", told[-1].bound, chart(f"Gate {name}", points, formats.number))


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(f"denograd_tasks.{package}", ".") for package in ("catalog", "report_page")]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    for filter_name in ("number", "ratio", "percent", "count", "shorten"):
        environment.filters[filter_name] = getattr(formats, filter_name)
    environment.filters["moment"] = lambda at: f"{at:%Y-%m-%d %H:%M}"
    environment.filters["size"] = _size
    return environment.get_template(f"{name}.html.j2")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
