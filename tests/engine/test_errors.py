"""One tree of errors, whose messages say where and what to do, in other processes too."""

from __future__ import annotations

import copy
import pickle

import pytest

from denograd_engine import errors
from denograd_engine.errors import DataError, DenogradError

EVERY = sorted(
    (one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)),
    key=lambda one: one.__name__,
)
FIELDS = ("problem", "expected", "found", "where", "remedy")


@pytest.mark.parametrize("kind", EVERY)
class TestEvery:
    @pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
    def test_survives_pickling_and_copying_with_its_fields(self, kind, send):
        error = kind("a problem", "this", "that", "here", "do so")
        again = send(error)
        assert type(again) is kind
        assert [getattr(again, name) for name in FIELDS] == ["a problem", "this", "that", "here", "do so"]
        assert str(again) == str(error)
        assert again.args == error.args

    def test_is_a_denograd_error_and_named_in_the_tree(self, kind):
        assert issubclass(kind, DenogradError)
        assert kind is DenogradError or kind.__name__ in errors.__doc__

    def test_leaves_out_what_it_does_not_know(self, kind):
        assert str(kind("a problem")) == "a problem"
        assert str(kind("a problem", remedy="do so")) == "a problem\n  what to do: do so"


def test_a_message_has_a_line_for_each_field():
    message = str(DataError("a problem", expected="this", found="that", where="here", remedy="do so"))
    assert message.splitlines() == [
        "a problem",
        "  expected: this",
        "  found: that",
        "  where: here",
        "  what to do: do so",
    ]


def test_the_tree_has_the_data_errors_on_one_branch():
    for name in ("SchemaError", "TimeAxisError", "TooFewRowsError"):
        assert issubclass(getattr(errors, name), DataError)
    assert not issubclass(errors.ConfigError, DataError)
