"""Events against OpenLineage's published schemas, as its Python client has them: a class generated from each."""

from __future__ import annotations

import importlib
import pkgutil
import types
from datetime import datetime
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlparse
from uuid import UUID

import attr
from openlineage.client import generated
from openlineage.client.event_v2 import RunEvent
from openlineage.client.generated.base import BaseFacet

PLAIN = {str: str, int: int, float: (int, float), bool: bool}


def published() -> dict[str, type]:
    """The class of every facet, by the address of its schema."""
    modules = [
        importlib.import_module(f"{generated.__name__}.{one.name}") for one in pkgutil.iter_modules(generated.__path__)
    ]
    classes = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    return {one._get_schema(): one for one in classes if issubclass(one, BaseFacet)}


FACETS = published()


def problems(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event; nothing if it follows the schemas."""
    found = _wrong(event, RunEvent, "event")
    try:
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        UUID(event["run"]["runId"])
        assert urlparse(event["producer"]).scheme
    except (AssertionError, ValueError, KeyError) as error:
        found.append(f"event: {error!r}")
    return found


def _wrong(value: Any, kind: Any, where: str) -> list[str]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if origin in (Union, types.UnionType):
        return min((_wrong(value, one, where) for one in inner if one is not type(None)), key=len)
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [wrong for at, one in enumerate(value) for wrong in _wrong(one, inner[0], f"{where}[{at}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        return [wrong for name, one in value.items() for wrong in _wrong(one, inner[1], f"{where}.{name}")]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [] if value in [one.value for one in kind] else [f"{where}: {value!r}"]
    if attr.has(kind):
        return _wrong_object(value, kind, where)
    fits = isinstance(value, PLAIN[kind]) and (kind is bool or not isinstance(value, bool))
    return [] if fits else [f"{where}: {value!r} is no {kind.__name__}"]


def _wrong_object(value: Any, kind: type, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: no object"]
    extra_allowed = False
    if issubclass(kind, BaseFacet):
        if value.get("_schemaURL") not in FACETS:
            return [f"{where}: no published schema, {value.get('_schemaURL')}"]
        kind = FACETS[value["_schemaURL"]]
        extra_allowed = kind.__module__.endswith(".base")
    hints, fields = get_type_hints(kind), attr.fields_dict(kind)
    found = [f"{where}: unknown {name}" for name in value if name not in fields and not extra_allowed]
    needed = [name for name, one in fields.items() if one.default is attr.NOTHING]
    found += [f"{where}: lacks {name}" for name in needed if name not in value]
    for name, one in value.items():
        if name in fields:
            found += _wrong(one, hints[name], f"{where}.{name}")
    return found
