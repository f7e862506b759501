"""Bounds on measured values, asserted by Great Expectations, with Data Docs as evidence.

The engine measures; the values go into a frame of one row, a column each; built-in expectations assert the bounds. An
expectation that raises counts as failed.
"""

from __future__ import annotations

import html
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from denograd_tasks.home import scratch
from denograd_tasks.records import File, Gate
from denograd_tasks.store import Store
from denograd_tasks.tables import put_file

HEAVY = (".gif", ".otf", "iterative-dev-loop.png", "logo-long.png")
"""Decorations of Data Docs, 4 MB a version, that its pages do without."""


@dataclass(frozen=True)
class Measured:
    """A value with its bounds, before judgement.

    Attributes:
        name: As in the configuration.
        value: What was measured; None fails.
        minimum: Lower bound, None if there is none.
        maximum: Upper bound, likewise.
        severity: What a failure means.
        meaning: What it measures, for people.
        remedy: What to try when it fails.
    """

    name: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None
    severity: Literal["error", "warning"] = "error"
    meaning: str = ""
    remedy: str = ""

    @property
    def unbounded(self) -> bool:
        """Whether nothing is demanded of the value."""
        return self.minimum is None and self.maximum is None

    @property
    def within(self) -> bool:
        """Whether the value is within its bounds; one that is not a finite number is not."""
        if self.value is None or not math.isfinite(self.value):
            return False
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= self.value <= high


def judge(title: str, measured: Sequence[Measured], store: Store, folder: str) -> tuple[list[Gate], tuple[File, ...]]:
    """Assert every bound, and write Data Docs to a folder of the store.

    Args:
        title: Name of the suite.
        measured: The values and their bounds.
        store: Where the evidence goes.
        folder: Where in it.

    Returns:
        The gates in the order given, and the files of the Data Docs; the first is the page to open: the values and
        their bounds, which can be read without a network, unlike the index.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    measured = [
        replace(one, value=None) if one.value is not None and not math.isfinite(one.value) else one for one in measured
    ]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=scratch()) as temporary:
        warnings.simplefilter("ignore")
        docs = Path(temporary) / "docs"
        passed = _validate(title, measured, docs)
        files = [path for path in sorted(docs.rglob("*")) if path.is_file() and not path.name.endswith(HEAVY)]
        files.sort(key=lambda path: docs / "validations" not in path.parents)
        written = tuple(put_file(store, path, f"{folder}/docs/{path.relative_to(docs).as_posix()}") for path in files)
    return [_gate(one, passed[one.name]) for one in measured], written


def _gate(one: Measured, passed: bool) -> Gate:
    return Gate(
        name=one.name,
        value=one.value,
        minimum=one.minimum,
        maximum=one.maximum,
        severity=one.severity,
        passed=passed,
        meaning=one.meaning,
        remedy=one.remedy,
    )


def _validate(title: str, measured: Sequence[Measured], docs: Path) -> dict[str, bool]:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    nowhere_else = DataContextConfig(store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False))
    context: Any = gx.get_context(mode="ephemeral", project_config=nowhere_else)
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(gx.ExpectationSuite(name=title))
    for one in measured:
        if one.unbounded:
            continue
        suite.add_expectation(
            gx.expectations.ExpectColumnMaxToBeBetween(  # of a single row: shows the value, and fails without one
                column=one.name,
                min_value=one.minimum,
                max_value=one.maximum,
                severity="critical" if one.severity == "error" else "warning",
                meta={"gate": one.name},
                description=html.escape(f"{one.meaning or one.name}: {_gate(one, False).bound}"),
            )
        )
    frame = pd.DataFrame({one.name: [float("nan") if one.value is None else one.value] for one in measured})
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("values")
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name=title, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    )
    context.add_data_docs_site(
        site_name="evidence",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=title,
            validation_definitions=[validation],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
            result_format="BASIC",
        )
    )
    result = next(iter(checkpoint.run(batch_parameters={"dataframe": frame}).run_results.values()))
    passed = {one.name: one.unbounded for one in measured}
    for each in result.results:
        passed[each.expectation_config.meta["gate"]] = bool(each.success)
    return {one.name: passed[one.name] and one.value is not None for one in measured}
