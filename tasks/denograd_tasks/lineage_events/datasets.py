"""The data sets of a run as OpenLineage has them, from what its manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    InputDatasetFacet,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    lifecycle_state_change_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)

from denograd_engine import __version__
from denograd_tasks.lineage_events.naming import Place
from denograd_tasks.records import Gate
from denograd_tasks.rule import POSTERIOR

PRODUCER = f"https://pypi.org/project/prefect-denograd/{__version__}/"
MOST_PAIRS = 10_000
"""Of an output column and a column it was computed from, which are listed one by one: 2 MB of JSON."""
SEEN = ("feature", "target", "frozen")
"""Roles of the columns that a model reads."""

F = TypeVar("F")


def facet(kind: Callable[..., F], *given: Any, **fields: Any) -> F:
    """A facet that names its producer."""
    return kind(*given, producer=PRODUCER, **fields)


def source_dataset(
    place: Place,
    columns: Iterable[tuple[str, str]],
    snapshot: str,
    rows: int,
    checks: Sequence[Gate] = (),
    nulls: Mapping[str, int] | None = None,
) -> InputDataset:
    """The source of a run.

    Args:
        place: Its name.
        columns: Name and type of each.
        snapshot: Digest of its content, which is the version of it.
        rows: Their number.
        checks: What it had to satisfy.
        nulls: Missing cells of its columns.
    """
    metrics = data_quality_metrics_input_dataset
    of_column = {name: metrics.ColumnMetrics(nullCount=count) for name, count in (nulls or {}).items()}
    made: dict[str, InputDatasetFacet] = {
        "dataQualityMetrics": facet(metrics.DataQualityMetricsInputDatasetFacet, of_column, rowCount=rows)
    }
    if checks:
        made["dataQualityAssertions"] = _assertions(checks)
    return InputDataset(
        place.namespace,
        place.name,
        inputFacets=made,
        facets={"schema": _schema((name, kind, None) for name, kind in columns), "version": _version(snapshot)},
    )


def source_of(body: Mapping[str, Any], place: Place, nulls: Mapping[str, int]) -> InputDataset:
    """The source that a manifest names."""
    given = [(one["name"], one["type"]) for one in body["schema"] if one["role"] != "uncertainty"]
    checks = [Gate(**one) for one in body["input_checks"]]
    return source_dataset(place, given, body["source"]["snapshot"], body["refinement"]["rows"], checks, nulls)


def result_of(
    body: Mapping[str, Any], source: Place, place: Place, version: str, nulls: Mapping[str, int], change: str | None
) -> OutputDataset:
    """What a manifest describes.

    Args:
        body: The manifest, of a version or of what was refused.
        source: Name of the source.
        place: Name of the result.
        version: Of it.
        nulls: Missing cells of its columns.
        change: `CREATE` or `OVERWRITE`; None if it was there before.
    """
    metrics, statistics = data_quality_metrics_dataset, output_statistics_output_dataset
    files, rows = body["files"], body["refinement"]["rows"]
    size = sum(file["bytes"] for file in files)
    of_column = {name: metrics.ColumnMetrics(nullCount=count) for name, count in nulls.items()}
    facets: dict[str, Any] = {
        "schema": _schema((one["name"], one["type"], _description(one)) for one in body["schema"]),
        "version": _version(version),
        "columnLineage": column_lineage(body, source),
        "dataQualityMetrics": facet(
            metrics.DataQualityMetricsDatasetFacet, of_column, rowCount=rows, bytes=size, fileCount=len(files)
        ),
        "dataQualityAssertions": _assertions([Gate(**one) for one in body["gates"]]),
    }
    if change is not None:
        states = lifecycle_state_change_dataset
        state = states.LifecycleStateChange(change)
        facets["lifecycleStateChange"] = facet(states.LifecycleStateChangeDatasetFacet, state)
    written = facet(statistics.OutputStatisticsOutputDatasetFacet, rowCount=rows, size=size, fileCount=len(files))
    return OutputDataset(
        place.namespace, place.name, outputFacets={"outputStatistics": written} if change else {}, facets=facets
    )


def column_lineage(body: Mapping[str, Any], source: Place) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    """Which columns of the source each column of the result was computed from.

    A refined column comes from itself and from what the model reads to say what it should be; every other column is the
    very same. Where that would be more than 10,000 pairs, a refined column names itself alone, and what the model reads
    is said once, of the whole data set. The columns of time and entity, along which windows are cut, are said of the
    whole data set as well.
    """
    lineage = column_lineage_dataset
    columns = {one["name"]: one for one in body["schema"]}
    read = {name: _read_for(body, one, columns) for name, one in columns.items()}
    listed = sum(map(len, read.values())) <= MOST_PAIRS
    description = f"rule {body['refinement']['rule']}, model {body['model']['uri']}, sha256 {body['model']['digest']}"

    def field(name: str, kind: str, how: str | None) -> lineage.InputField:
        transformation = lineage.Transformation(type=kind, subtype=how, masking=False)
        return lineage.InputField(source.namespace, source.name, name, transformations=[transformation])

    fields = {}
    for name, one in columns.items():
        own = one.get("of", name)
        if not read[name]:
            fields[name] = lineage.Fields([field(own, "DIRECT", "IDENTITY")])
            continue
        others = [other for other in read[name] if other != own] if listed else []
        fields[name] = lineage.Fields(
            [field(each, "DIRECT", "TRANSFORMATION") for each in (own, *others)], transformationDescription=description
        )
    series = body["settings"].get("series")
    whole = [] if not series else [field(name, "INDIRECT", "WINDOW") for name in (series["time"], *series["entity"])]
    if not listed:
        whole += [field(name, "INDIRECT", "CONDITIONAL") for name, one in columns.items() if one["role"] in SEEN]
    return facet(lineage.ColumnLineageDatasetFacet, fields, whole)


def _read_for(body: Mapping[str, Any], column: Mapping[str, Any], columns: Mapping[str, Any]) -> list[str]:
    """The columns that a refined one was computed from; none where it is as it was."""
    about = columns[column["of"]] if column["role"] == "uncertainty" else column
    refine, posterior = body["settings"]["refine"], body["refinement"]["rule"] == POSTERIOR
    moved = about["name"] in body["refinement"]["columns"] if posterior else about["refined"]
    if not moved or (about["role"] == "target" and not refine["refine_targets"]):
        return []
    informs = refine.get("arguments", {}).get("target_informs")
    informs = bool(body["settings"].get("series")) if informs is None else informs
    blind = posterior and not informs and about["role"] == "feature"
    return [name for name, one in columns.items() if one["role"] in SEEN and not (blind and one["role"] == "target")]


def _schema(columns: Iterable[tuple[str, str, str | None]]) -> schema_dataset.SchemaDatasetFacet:
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name, type=kind, description=description, ordinal_position=at)
        for at, (name, kind, description) in enumerate(columns, 1)
    ]
    return facet(schema_dataset.SchemaDatasetFacet, fields)


def _description(column: Mapping[str, Any]) -> str:
    return f"{column['role']}: {column['why']}" if column.get("why") else str(column["role"])


def _version(version: str) -> dataset_version_dataset.DatasetVersionDatasetFacet:
    return facet(dataset_version_dataset.DatasetVersionDatasetFacet, version)


def _assertions(gates: Sequence[Gate]) -> data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet:
    assertions = data_quality_assertions_dataset
    return facet(
        assertions.DataQualityAssertionsDatasetFacet,
        [
            assertions.Assertion(
                gate.name,
                gate.passed,
                severity="error" if gate.severity == "error" else "warn",
                description=gate.meaning or None,
                expected=gate.bound,
                actual=None if gate.value is None else f"{gate.value:.6g}",
            )
            for gate in gates
        ],
    )
