"""Every error this project raises on purpose.

    DenogradError
    ├── ConfigError             a setting is wrong: unknown key, bad type, impossible value
    ├── DataError               the data cannot be used as they are
    │   ├── SchemaError         a column is missing, duplicated, or unfit for its role
    │   ├── TimeAxisError       time stamps are missing, unsorted, duplicated, or leave no window
    │   └── TooFewRowsError     not enough rows to train on
    ├── GateRefused             a quality gate refused the result
    ├── StoreError              a stored artefact is missing, damaged, or lost a race
    └── ServiceError            a service (tracking, orchestration, object store) does not answer

A message says what is wrong, what was expected, what was found, where, and what to do about it. It names columns,
row positions and time stamps, never other cell values.
"""

from __future__ import annotations


class DenogradError(Exception):
    """Base of all errors raised on purpose.

    Args:
        problem: What is wrong, in one sentence.
        expected: What would have been right.
        found: What is there instead.
        where: The file, key, column or row concerned.
        remedy: What the user can do.

    Errors survive pickling, since tasks may run in other processes.

    >>> print(DataError("column 'a' is constant", where="data.csv", remedy="mark it as frozen"))
    column 'a' is constant
      where: data.csv
      what to do: mark it as frozen
    """

    def __init__(
        self,
        problem: str,
        expected: str | None = None,
        found: str | None = None,
        where: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem, expected, found, where, remedy)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        parts = {
            "expected": self.expected,
            "found": self.found,
            "where": self.where,
            "what to do": self.remedy,
        }
        return "\n".join([self.problem, *(f"  {label}: {text}" for label, text in parts.items() if text)])


class ConfigError(DenogradError):
    """A setting is wrong."""


class DataError(DenogradError):
    """The data cannot be used as they are."""


class SchemaError(DataError):
    """A column is missing, duplicated, or unfit for the role it was given."""


class TimeAxisError(DataError):
    """Time stamps are missing, unsorted, duplicated, or leave no complete window."""


class TooFewRowsError(DataError):
    """There are not enough rows to train a model on."""


class GateRefused(DenogradError):
    """A quality gate refused the result, which was put in quarantine."""


class StoreError(DenogradError):
    """A stored artefact is missing or damaged."""


class ServiceError(DenogradError):
    """A service does not answer."""
