"""When a stage may be skipped: its cache key is the digest of everything that determines its result.

Prefect keeps the results; this policy names them. A hit counts only if the record can still be read and every artefact
that it points to is there with its digest: otherwise the key gets a suffix, and the stage runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import CachePolicy

from denograd_engine import __version__
from denograd_engine.errors import DenogradError
from denograd_tasks.records import Record

if TYPE_CHECKING:
    from prefect.context import TaskRunContext

P = ParamSpec("P")
R = TypeVar("R", bound=Record)
Determinants = Callable[[dict[str, Any]], dict[str, Any]]
"""From a task's parameters to plain data that determine its result."""


def digest_of(plain: Any) -> str:
    """sha256 of plain data in canonical JSON."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class StageKey(CachePolicy):
    """The cache policy of one stage.

    Attributes:
        determinants: What determines the result, besides the engine's version.
    """

    determinants: Determinants = field(default=lambda parameters: parameters)

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The first key in line that is free or holds an intact record; None for inputs that the stage will refuse."""
        try:
            key, _ = lookup(cast("Task[..., Any]", task_ctx.task), inputs)
        except (DenogradError, OSError):
            return None
        return key


def stage(determinants: Determinants) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Makes a function a stage: a task of its name, whose record is kept under the digest of these determinants."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return task(
            name=function.__name__,
            cache_policy=StageKey(determinants=determinants),
            persist_result=True,
            result_serializer="json",
        )(function)

    return decorate


def lookup(stage: Task[..., Any], parameters: dict[str, Any]) -> tuple[str, Record | None]:
    """The key under which a stage with these parameters is kept, and its record if there is an intact one."""
    from prefect.results import ResultStore, get_result_store

    policy = cast(StageKey, stage.cache_policy)
    stem = f"{stage.name}-{digest_of([__version__, policy.determinants(parameters)])}"
    store = cast(ResultStore, get_result_store().update_for_task(stage))
    attempt = 0
    while True:
        key = stem if not attempt else f"{stem}-{attempt}"
        if not store.exists(key):
            return key, None
        try:
            record = store.read(key).result
        except Exception:  # a record half written by a killed run is as good as none
            record = None
        if isinstance(record, Record) and record.intact():
            return key, record
        attempt += 1
