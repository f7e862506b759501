"""Does the same come out again? A version is refined once more from its snapshot, its settings and its model.

Nothing but the published folder is needed, and nothing in it is changed; where the model is a network that only its own
code brings back, or was fitted with a criterion of the user's, that code is needed as well, and is run.

On the processor, the versions and the threads that a version was made with, its tables come out byte for byte.
Elsewhere sums are taken in another order: cells may then differ by `TOLERANCE`, and of each column one in `STRAYS` by
more, since a row at the gate may take a step more or less. What nothing refines may not differ at all. Draws
(`refine.draw`) are others on another kind of device.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from denograd_engine.errors import ConfigError
from denograd_engine.user_code import is_custom
from denograd_tasks.append import model_of
from denograd_tasks.appending import ROWS_FILE
from denograd_tasks.audit.files import require_intact
from denograd_tasks.environment import Difference, differences, environment
from denograd_tasks.growth import Parent
from denograd_tasks.home import scratch
from denograd_tasks.models import SCALING
from denograd_tasks.progress import listener
from denograd_tasks.records import File, Snapshot
from denograd_tasks.refining import Computed, compute
from denograd_tasks.removals import require_tables
from denograd_tasks.roles import std_name
from denograd_tasks.settings import Settings, parse_settings
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.tables import read_table, write_table
from denograd_tasks.union import differing
from denograd_tasks.versions import Manifest, origin_of, read_manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 0.001
"""How far cells may be from the published ones, in standard deviations of their column."""
STRAYS = 1000
"""One cell of a refined column in so many may be further away."""
STAGE = "refine"


@dataclass(frozen=True)
class ColumnMatch:
    """A column that did not come out as it was.

    Attributes:
        name: Of it.
        cells: That differ.
        largest: Difference, in standard deviations of the column; None where cells are no numbers, or are missing on
            one side.
        beyond: Cells that are further away than the tolerance.
        within: Whether so many may be.
    """

    name: str
    cells: int
    largest: float | None
    beyond: int
    within: bool


@dataclass(frozen=True)
class TableMatch:
    """A table of the version against the one that came out now.

    Attributes:
        path: Of the published file, relative to the root.
        identical: Whether the two are the same byte for byte.
        columns: Those that differ; none where the same cells are in other bytes.
    """

    path: str
    identical: bool
    columns: tuple[ColumnMatch, ...]


@dataclass(frozen=True)
class Reproduced:
    """What came out.

    Attributes:
        version: NAME@N.
        made_as: The version that was run again: this one, or the one that it rolls back to.
        outcome: Byte for byte the same, within the tolerance, or different.
        tolerance: In standard deviations of a column.
        strays: One cell of a refined column in so many may be further away.
        tables: Every table of the version.
        differences: Between what it was made with and what it was run again with.
        code: Names of the user's own code that took part, as it is now.
    """

    version: str
    made_as: str
    outcome: Literal["identical", "within tolerance", "different"]
    tolerance: float
    strays: int
    tables: tuple[TableMatch, ...]
    differences: tuple[Difference, ...]
    code: tuple[str, ...]


def reproduce(store: Store, manifest: Manifest) -> Reproduced:
    """Run a version again, and compare.

    Raises:
        StoreError: If a file that it needs is gone, removed by retention, or not as it was published.
        ConfigError: If a deadline ended its refinement, or code that it needs is gone or has changed.
    """
    made = origin_of(store, manifest)
    content = made.content
    if content["refinement"]["interrupted"]:
        raise ConfigError(
            f"{made.dataset}@{made.number} cannot be reproduced",
            expected="a refinement that came to its end",
            found="one that its deadline ended; where it was then depends on the speed of the machine",
            where="refine.deadline",
        )
    _require_inputs(store, made)
    settings = _settings(store, content)
    record = model_of(made, settings, content["model"]["mlflow_run_id"])
    snapshot = Snapshot(
        root=store.named,
        files=_files(content["source"]["files"]),
        digest=content["source"]["snapshot"],
        source=content["source"]["uri"],
        rows=content["refinement"]["rows"],
        columns=(),
        parent=_parent(made),
    )
    strength = float(content["refinement"].get("strength", 1.0))
    listener().started(STAGE)
    computed = compute(
        snapshot, record, settings, strength, lambda share, text: listener().advanced(STAGE, share, text)
    )
    listener().finished(STAGE, f"{snapshot.rows:,} rows", False)
    tables = _compared(store, made, computed)
    named = (record.architecture.kind if record.architecture.rebuilt else "", record.architecture.criterion or "")
    return Reproduced(
        version=f"{manifest.dataset}@{manifest.number}",
        made_as=f"{made.dataset}@{made.number}",
        outcome=_outcome(tables),
        tolerance=TOLERANCE,
        strays=STRAYS,
        tables=tables,
        differences=differences(content["environment"], environment(settings.device)),
        code=tuple(name for name in named if is_custom(name)),
    )


def _outcome(tables: tuple[TableMatch, ...]) -> Literal["identical", "within tolerance", "different"]:
    if all(table.identical for table in tables):
        return "identical"
    return "within tolerance" if all(one.within for table in tables for one in table.columns) else "different"


def _require_inputs(store: Store, made: Manifest) -> None:
    """Everything that goes in, and comes out, is as it was published."""
    content, needed = made.content, [made]
    if content.get("appended"):
        needed.append(read_manifest(store, made.dataset, content["appended"]["parent"]))
    for manifest in needed:
        require_tables(store, manifest)
    whose = f"{made.dataset}@{made.number}"
    files = _files([*content["source"]["files"], *content["model"]["files"], *_tables(content)])
    require_intact(store, files, whose, f"look for more damage with: denograd verify {whose}")


def _settings(store: Store, content: Mapping[str, Any]) -> Settings:
    """The configuration of the version, for this root and this machine; a deadline did not end it then."""
    from denograd_engine.devices import resolve_device

    settings = parse_settings(
        content["settings"] | {"publish": {"root": store.named}}, f"{content['dataset']}@{content['number']}, settings"
    )
    rule = content["refinement"].get("rule", settings.refine.rule)
    refine = settings.refine.model_copy(update={"rule": rule, "deadline": None})
    try:
        resolve_device(settings.device)
    except ConfigError:
        settings = settings.model_copy(update={"device": "auto"})
    return settings.model_copy(update={"refine": refine})


def _parent(made: Manifest) -> Parent | None:
    appended = made.content.get("appended")
    return None if not appended else Parent(number=appended["parent"], digest=made.content["parent"])


def _files(listed: list[dict[str, Any]]) -> tuple[File, ...]:
    return tuple(File(**{name: one[name] for name in File.model_fields}) for one in listed)


def _tables(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables that refinement makes: the data, and beside them a line for each row."""
    return [*content["files"], *(one for one in content["evidence"] if one["path"].endswith(".parquet"))]


def _compared(store: Store, made: Manifest, computed: Computed) -> tuple[TableMatch, ...]:
    spreads = _spreads(store, made)
    (data,), beside = made.content["files"], _tables(made.content)[1:]
    pairs = [(data, computed.made.data), *((one, computed.made.beside[_name(one)]) for one in beside)]
    matches = []
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        for published, table in pairs:
            again = write_table(table, Path(folder) / _name(published))
            columns: tuple[ColumnMatch, ...] = ()
            identical = sha256_of(again) == published["sha256"]
            if not identical:
                before, after = read_table(store, published["path"]), pq.read_table(again, memory_map=False)
                scales = dict.fromkeys(before.column_names, 1.0) if _name(published) == ROWS_FILE else spreads
                columns = _differing(before, after, scales, judged=published is data)
            matches.append(TableMatch(published["path"], identical, columns))
    return tuple(matches)


def _name(file: Mapping[str, Any]) -> str:
    return str(file["path"]).rsplit("/", 1)[-1]


def _differing(before: pa.Table, after: pa.Table, scales: Mapping[str, float], judged: bool) -> tuple[ColumnMatch, ...]:
    """Columns that are not the same.

    Args:
        before: As it was published.
        after: As it came out now.
        scales: One standard deviation of refined columns, and whatever is measured in them.
        judged: Whether columns without a scale must be the very same.
    """
    if before.schema.names != after.schema.names or len(before) != len(after):
        names = dict.fromkeys([*before.schema.names, *after.schema.names])
        most = max(len(before), len(after))
        return tuple(ColumnMatch(name, most, None, most, within=False) for name in names)
    found = []
    for name in before.column_names:
        scale = scales.get(name)
        numbers = all(_is_number(table.schema.field(name).type) for table in (before, after))
        differ = differing(before, after, [name])
        largest, beyond = None, differ
        if scale is not None and numbers:
            away = np.abs(_numbers(after[name]) - _numbers(before[name])) / scale
            beyond = differ & ~(away <= TOLERANCE)
            finite = away[differ & np.isfinite(away)]
            largest = float(finite.max()) if len(finite) else None
        if differ.any():
            allowed = 0 if judged and scale is None else len(before) // STRAYS
            count = int(beyond.sum())
            found.append(ColumnMatch(name, int(differ.sum()), largest, count, within=count <= allowed))
    return tuple(found)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return numbers


def _spreads(store: Store, made: Manifest) -> dict[str, float]:
    """One standard deviation of each refined column, in its own unit, also for the column of its posterior std."""
    from denograd_engine.frames import Encoder

    path = next(one["path"] for one in made.content["model"]["files"] if _name(one) == SCALING)
    encoder = Encoder.from_dict(json.loads(store.read(path)))
    known = dict(zip(encoder.schema.cells, encoder.spreads.tolist(), strict=True))
    return {name: known[of] or 1.0 for of in encoder.schema.refined for name in (of, std_name(of))}
