"""What is wrong with a configuration, in words for people: the key, what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

from pydantic import BaseModel, ValidationError

from denograd_engine.errors import ConfigError

Location = tuple[int | str, ...]
Model = type[BaseModel]

LONGEST_VALUE = 80
"""Signs of a wrong key or value that a message repeats."""
TEXT = "text"
NAMES = "a name, or a list of names"
RULES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a valid number",
    "float_type": "a valid number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "string_too_short": "text, not empty",
    "string_type": TEXT,
    "too_short": "at least one name",
    "tuple_type": NAMES,
}
"""What pydantic's errors mean; placeholders are from the error's context."""

_brief = Repr()
_brief.maxstring = _brief.maxother = LONGEST_VALUE


def config_error(error: ValidationError, model: Model, where: str) -> ConfigError:
    """The first unknown key, else the first wrong value, with its path, and how many more there are."""
    problems = error.errors(include_url=False)
    unknown = [one for one in problems if one["type"] in ("extra_forbidden", "invalid_key")]
    first: Mapping[str, Any] = (unknown or problems)[0]
    more = len({tuple(one["loc"]) for one in problems}) - 1
    where += f" (and {more} more)" if more else ""
    if first["type"] == "conflict":
        return ConfigError(**first["ctx"], where=where)
    if unknown:
        return _unknown_key(first["loc"], model, where)
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return ConfigError(
            f"{_path(first['loc'])}: this setting is required", expected=_meaning(first["loc"], model), where=where
        )
    return _wrong_value(first, model, where)


def _unknown_key(at: Location, model: Model, where: str) -> ConfigError:
    section = _section(at[:-1], model)
    valid = list(section.model_fields) if section else []
    near = get_close_matches(str(at[-1]), valid, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"the keys here are: {', '.join(valid)}"
    return ConfigError(f"{_path(at)}: there is no such setting", where=where, remedy=remedy)


def _wrong_value(problem: Mapping[str, Any], model: Model, where: str) -> ConfigError:
    at, given = problem["loc"], problem["input"]
    missing = problem["type"] == "missing"
    rule, meaning = _rule(problem, model), _meaning(at, model)
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    near = problem.get("ctx", {}).get("near")
    quotes = "write a name of digits in quotes" if number and rule in (TEXT, NAMES) else None
    return ConfigError(
        f"{_path(at[:-1] if missing else at)}: this value cannot be used",
        expected=". ".join(text for text in (rule, meaning) if text),
        found=_short(_brief.repr(given)) if _shown(at, model) else "a value that is not repeated here",
        where=where,
        remedy=f"did you mean {near!r}?" if near else quotes,
    )


def _rule(problem: Mapping[str, Any], model: Model) -> str | None:
    """What the value should have been; None where the setting's description says so."""
    kind = problem["type"]
    if kind == "string_pattern_mismatch":
        return None
    if "bounds" in problem["loc"] and kind in ("tuple_type", "too_long", "missing"):
        return "a list of two: [lowest, highest]"
    if kind == "model_type":
        section = _section(problem["loc"], model)
        return f"a section with keys such as {', '.join(list(section.model_fields)[:3])}" if section else "a section"
    return RULES[kind].format(**problem.get("ctx", {})) if kind in RULES else str(problem["msg"])


def _path(at: Location) -> str:
    return ".".join(_short(str(part)) for part in at if part != "[key]")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


def _section(at: Location, model: Model) -> Model | None:
    found: Model | None = model
    for part in at:
        field = found.model_fields.get(str(part)) if found else None
        if field is None:
            return None
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        found = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return found


def _shown(at: Location, model: Model) -> bool:
    """Whether a wrong value may be repeated: not where it may be a secret that was put in the wrong place."""
    section = _section(at[:-1], model)
    field = section.model_fields.get(str(at[-1])) if section else None
    return field is None or field.repr


def _meaning(at: Location, model: Model) -> str | None:
    for end in range(len(at), 0, -1):
        section = _section(at[: end - 1], model)
        field = section.model_fields.get(str(at[end - 1])) if section else None
        if field is not None:
            return field.description
    return None
