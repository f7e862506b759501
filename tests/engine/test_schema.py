"""Roles as inferred and as declared, and what a declaration must not be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from denograd_engine.columns import Column, Role
from denograd_engine.errors import ConfigError, SchemaError
from denograd_engine.frames import Encoder
from denograd_engine.schema import Schema, Series, infer_schema

ROWS = 400
RANDOM = np.random.default_rng(3)
MEASURED = RANDOM.normal(98765.4321, 10.0, ROWS)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state


def frame_of(**columns):
    return pd.DataFrame({**columns, "y": MEASURED})


def inferred(values, name="column", series=False, rows=ROWS):
    """Role of one column beside a measured target."""
    frame = pd.DataFrame({name: values, "t": np.arange(rows), "y": MEASURED[:rows]})
    return infer_schema(frame, "y", series=Series("t") if series else None, ignored=() if series else ["t"])[name]


class TestInferredRoles:
    @pytest.mark.parametrize(
        "values",
        [
            RANDOM.normal(size=ROWS),
            RANDOM.normal(size=ROWS).astype("float32"),
            np.where(np.arange(ROWS) % 3, RANDOM.normal(size=ROWS), np.nan),
            pd.array(RANDOM.normal(size=ROWS), dtype="Float64"),
            np.arange(ROWS) % 11 / 10,
            RANDOM.permutation(ROWS),
            np.arange(ROWS) % 21,
            (np.arange(ROWS) % 21).astype(float),
            pd.array(np.arange(ROWS) % 40, dtype="Int64"),
        ],
    )
    def test_measurements_are_features(self, values):
        column = inferred(values)
        assert (column.role, column.refined) == (Role.FEATURE, True)

    @pytest.mark.parametrize(
        "values",
        [
            np.arange(ROWS) % 20,
            (np.arange(ROWS) % 20).astype("int8"),
            (np.arange(ROWS) % 20).astype(float),
            np.where(np.arange(ROWS) % 3, np.arange(ROWS) % 20, np.nan),
            pd.array(np.arange(ROWS) % 5, dtype="Int64"),
            np.arange(ROWS) % 10 / 10,
            np.zeros(ROWS),
        ],
    )
    def test_codes_and_levels_are_frozen(self, values):
        column = inferred(values)
        assert (column.role, column.refined) == (Role.FROZEN, False)
        assert "distinct values" in column.why

    def test_codes_that_recur_often_may_be_many_in_a_table_but_not_in_a_series(self):
        rows = 2000
        many = np.arange(rows) % 100
        target = RANDOM.normal(size=rows)
        table = pd.DataFrame({"code": many, "t": np.arange(rows), "y": target})
        assert infer_schema(table, "y", ignored=["t"])["code"].role is Role.FROZEN
        assert infer_schema(table, "y", series=Series("t"))["code"].role is Role.FEATURE
        assert infer_schema(table.assign(code=np.arange(rows) % 101), "y")["code"].role is Role.FEATURE

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            (np.arange(ROWS) % 2 == 0, "true or false"),
            (pd.array(np.arange(ROWS) % 2 == 0, dtype="boolean"), "true or false"),
            (pd.Categorical(["a", "b"] * (ROWS // 2)), "category, 2 distinct values"),
            (["red", None] * (ROWS // 2), "category, 1 distinct values"),
            (pd.date_range("2024-03-01", periods=ROWS, tz="Asia/Tokyo"), "time stamp"),
            (pd.to_timedelta(np.arange(ROWS), "h"), "time stamp"),
        ],
    )
    def test_what_is_no_number_is_frozen(self, values, why):
        column = inferred(values)
        assert (column.role, column.refined, column.why) == (Role.FROZEN, False, why)

    @pytest.mark.parametrize("name", ["id", "ID", "customer_id", "Unnamed: 0", "row.key", "uuid", "order-index"])
    def test_row_identifiers_are_ignored(self, name):
        assert inferred(RANDOM.permutation(ROWS), name).role is Role.IGNORED

    @pytest.mark.parametrize(("name", "step"), [("idle", 1), ("width", 1), ("id", 0.5)])
    def test_distinct_numbers_of_another_name_are_measurements(self, name, step):
        assert inferred(RANDOM.permutation(ROWS) * step, name).role is Role.FEATURE

    def test_an_identifier_that_repeats_is_a_measurement(self):
        assert inferred(np.arange(ROWS) // 2, "id").role is Role.FEATURE

    def test_free_text_is_ignored(self):
        column = inferred([f"text {at}" for at in range(ROWS)])
        assert (column.role, column.why) == (Role.IGNORED, "text, 400 distinct values")
        assert inferred([[at] for at in range(ROWS)]).role is Role.IGNORED

    def test_whole_numbers_are_rounded_only_where_their_type_is(self):
        values = np.arange(ROWS) % 50
        assert inferred(values).integer
        assert inferred(pd.array(values, dtype="Int64")).integer
        assert not inferred(values.astype(float)).integer

    def test_continuous_targets_move_and_codes_do_not(self):
        frame = pd.DataFrame({"x": MEASURED, "grade": np.arange(ROWS) % 4, "y": MEASURED})
        schema = infer_schema(frame, ["y", "grade"])
        assert schema.targets == ["grade", "y"]
        assert schema.refined == ["x", "y"]


class TestDeclaredRoles:
    def test_they_win_over_the_inferred(self):
        frame = frame_of(rooms=np.arange(ROWS) % 4, area=RANDOM.normal(size=ROWS), age=RANDOM.normal(size=ROWS))
        schema = infer_schema(frame, "y", features=["rooms"], frozen=["area"], ignored=["age"])
        assert [(column.name, str(column.role)) for column in schema.columns] == [
            ("rooms", "feature"),
            ("area", "frozen"),
            ("age", "ignored"),
            ("y", "target"),
        ]
        assert schema["rooms"].integer
        assert schema.cells == schema.refined == ["rooms", "y"]
        assert schema.untouched == ["area", "age"]

    def test_time_is_ignored_and_entities_are_frozen(self):
        frame = frame_of(t=np.arange(ROWS), site=np.arange(ROWS) % 2, x=RANDOM.normal(size=ROWS))
        schema = infer_schema(frame, "y", series=Series("t", ("site",)))
        assert (schema["t"].role, schema["site"].role) == (Role.IGNORED, Role.FROZEN)
        assert schema.series.span == 25

    def test_bounds_are_kept_one_sided_too(self):
        schema = infer_schema(frame_of(x=MEASURED), "y", bounds={"x": (0, None), "y": (None, 1e6)})
        assert (schema["x"].minimum, schema["x"].maximum) == (0, None)
        assert (schema["y"].minimum, schema["y"].maximum) == (None, 1e6)

    def test_the_order_is_the_datas_with_targets_last_among_the_cells(self):
        frame = pd.DataFrame({"y": MEASURED, "b": MEASURED, "z": MEASURED, "a": MEASURED})
        schema = infer_schema(frame, ["z", "y"])
        assert schema.cells == ["b", "a", "y", "z"]
        assert [column.name for column in schema.columns] == ["y", "b", "z", "a"]

    def test_a_column_that_is_not_there_is_a_key_error(self):
        with pytest.raises(KeyError, match="z"):
            Schema((Column("a", Role.FEATURE),))["z"]


class TestMistakes:
    def refused(self, call, *parts, kind=SchemaError):
        with pytest.raises(kind) as caught:
            call()
        message = str(caught.value)
        for part in parts:
            assert part in message
        assert "98765" not in message
        assert "SECRET" not in message
        return caught.value

    def test_an_absent_target_with_a_near_miss(self):
        frame = frame_of(price_total=MEASURED)
        error = self.refused(
            lambda: infer_schema(frame, "price_totl"),
            "there is no column 'price_totl'",
            "found: price_total, y",
            "where: columns.target",
            "did you mean 'price_total'?",
        )
        assert error.remedy == "did you mean 'price_total'?"

    def test_a_near_miss_may_differ_in_case(self):
        error = self.refused(lambda: infer_schema(frame_of(Price=MEASURED), "PRICE"), "'PRICE'")
        assert error.remedy == "did you mean 'Price'?"

    def test_an_absent_column_without_one(self):
        error = self.refused(lambda: infer_schema(frame_of(x=MEASURED), "y", frozen=["quantity"]), "columns.frozen")
        assert error.remedy == "use one of the columns found"

    def test_many_columns_are_not_all_listed(self):
        frame = pd.DataFrame({f"c{at}": MEASURED for at in range(40)})
        error = self.refused(lambda: infer_schema(frame, "target"))
        assert error.found.endswith("c11, ...")

    @pytest.mark.parametrize(
        ("listed", "where"),
        [
            ({"features": ["q"]}, "columns.feature"),
            ({"ignored": ["q"]}, "columns.ignored"),
            ({"bounds": {"q": (0, 1)}}, "columns.bounds"),
            ({"series": Series("q")}, "series.time"),
            ({"series": Series("x", ("q",))}, "series.entity"),
        ],
    )
    def test_every_name_must_exist(self, listed, where):
        error = self.refused(lambda: infer_schema(frame_of(x=MEASURED), "y", **listed), "'q'")
        assert error.where == where

    def test_repeated_names(self):
        frame = pd.DataFrame(np.zeros((5, 4)), columns=["a", "b", "a", "y"])
        self.refused(
            lambda: infer_schema(frame, "y"), "more than once: 'a'", "every column name once", "rename or drop"
        )

    def test_names_that_are_no_text(self):
        frame = pd.DataFrame(RANDOM.normal(size=(60, 3)))
        self.refused(lambda: infer_schema(frame, [2]), "must be text", "found: 0, 1, 2", "astype(str)")

    @pytest.mark.parametrize(
        ("column", "task"),
        [(["SECRET", "b"] * 200, "regression"), ([True, False] * 200, "regression"), (MEASURED * 1j, None)],
    )
    def test_a_target_that_is_no_number(self, column, task):
        frame = frame_of(z=column)
        self.refused(
            lambda: infer_schema(frame, "z", task=task),
            "column 'z' cannot be a target: it is not numeric",
            "integers or floating-point",
            f"type {frame['z'].dtype}",
            "columns.target",
            "choose a numeric column",
        )

    def test_a_feature_that_is_no_number(self):
        frame = frame_of(z=["SECRET", "b"] * 200)
        self.refused(lambda: infer_schema(frame, "y", features=["z"]), "columns.frozen: [z]")

    def test_two_roles(self):
        frame = frame_of(x=MEASURED)
        self.refused(
            lambda: infer_schema(frame, "y", features=["x"], frozen=["x"]), "'x' has two roles: feature and frozen"
        )
        self.refused(lambda: infer_schema(frame, "y", ignored=["y"]), "'y' has two roles: target and ignored")

    @pytest.mark.parametrize("series", [Series("x"), Series("t", ("x",))])
    @pytest.mark.parametrize("role", ["target", "feature"])
    def test_a_time_or_entity_that_is_refined(self, series, role):
        frame = frame_of(x=MEASURED, t=np.arange(ROWS))
        listed = {"target": "x"} if role == "target" else {"target": "y", "features": ["x"]}
        self.refused(lambda: infer_schema(frame, **listed, series=series), f"both {role} and", f"columns.{role}")

    @pytest.mark.parametrize("listed", [{"frozen": ["x"]}, {"ignored": ["x"]}])
    def test_bounds_on_a_column_that_never_changes(self, listed):
        error = self.refused(
            lambda: infer_schema(frame_of(x=MEASURED, z=MEASURED), "y", bounds={"x": (0, 1)}, **listed),
            "never changes, so bounds have no meaning",
            "remove the bounds",
        )
        assert error.where == "columns.bounds.x"

    @pytest.mark.parametrize("bounds", [(1, 0), (2.5, 2.5), (float("nan"), 1), (0, float("nan"))])
    def test_bounds_that_leave_no_room(self, bounds):
        self.refused(
            lambda: infer_schema(frame_of(x=MEASURED), "y", bounds={"x": bounds}),
            "bounds of column 'x' leave no room",
            "a lower bound below the upper",
            f"[{bounds[0]}, {bounds[1]}]",
        )

    def test_bounds_that_leave_no_whole_number(self):
        frame = frame_of(x=np.arange(ROWS))
        self.refused(lambda: infer_schema(frame, "y", bounds={"x": (0.2, 0.8)}), "'x' leave no room", "[0.2, 0.8]")

    def test_no_target(self):
        self.refused(lambda: infer_schema(frame_of(x=MEASURED), []), "no target column is named", "columns.target")

    def test_nothing_to_refine(self):
        frame = pd.DataFrame({"grade": np.arange(ROWS) % 3, "kind": ["a", "b"] * 200})
        self.refused(lambda: infer_schema(frame, "grade"), "no column can be refined", "columns.feature")

    def test_impossible_windows(self):
        error = self.refused(lambda: Series("t", window=-2), "series.window must be at least 1", kind=ConfigError)
        assert (error.found, error.where) == ("-2", "series.window")


class TestNoise:
    def test_is_kept_in_the_columns_own_unit(self):
        schema = infer_schema(frame_of(x=MEASURED, z=MEASURED), "y", noise={"x": 0.3, "y": 2})
        assert [schema[name].noise for name in ("x", "z", "y")] == [0.3, None, 2]

    def test_is_standardised_with_its_column_and_one_where_none_is_declared(self):
        frame = frame_of(x=MEASURED * 7, z=np.sqrt(np.abs(MEASURED)))
        encoder = Encoder.fit(frame, infer_schema(frame, "y", noise={"x": 14.0, "y": 5.0}))
        assert encoder.schema.cells == ["x", "z", "y"]
        np.testing.assert_allclose(encoder.noise(), [14.0 / encoder.spreads[0], 1.0, 5.0 / encoder.spreads[2]])

    def refused(self, noise, *parts, where="columns.noise.x", **listed):
        frame = frame_of(x=MEASURED, kind=["a", "b"] * (ROWS // 2))
        with pytest.raises(SchemaError) as caught:
            infer_schema(frame, "y", noise=noise, **listed)
        for part in parts:
            assert part in str(caught.value)
        assert caught.value.where == where

    @pytest.mark.parametrize("noise", [0.0, -1.0, float("nan"), float("inf")])
    def test_must_be_positive(self, noise):
        self.refused({"x": noise}, "noise of column 'x' must be positive", "the column's own unit", f"found: {noise}")

    @pytest.mark.parametrize("listed", [{"frozen": ["x"]}, {"ignored": ["x"]}])
    def test_has_no_meaning_for_a_column_that_never_changes(self, listed):
        self.refused({"x": 1.0}, "never changes, so its noise has no meaning", "columns.feature", **listed)

    def test_has_none_for_classes(self):
        frame = frame_of(x=MEASURED, kind=["a", "b"] * (ROWS // 2))
        with pytest.raises(SchemaError, match="'kind' is target and never changes"):
            infer_schema(frame, "kind", noise={"kind": 1.0})

    def test_of_a_column_that_is_not_there(self):
        self.refused({"q": 1.0}, "there is no column 'q'", where="columns.noise")


class TestNoiseThatHangsTogether:
    SERIES = Series("t")

    def frame(self):
        return frame_of(x=MEASURED).assign(t=pd.date_range("2024-01-01", periods=len(MEASURED), freq="h"))

    def test_is_part_of_the_schema(self):
        schema = infer_schema(self.frame(), "y", series=self.SERIES, noise={"x": 0.3}, noise_correlation={"x": 12})
        assert [schema[name].noise_correlation for name in ("x", "y")] == [12, 0]

    @pytest.mark.parametrize(
        ("listed", "words"),
        [
            ({"noise": {"x": 1.0}}, ("the rows of a table have no order", "series.time")),
            ({"series": SERIES}, ("is not declared", "cannot be estimated", "columns.noise: {x: 0.5}")),
            ({"series": SERIES, "noise": {"x": 1.0}, "noise_correlation": {"x": 0}}, ("at least 1 step", "found: 0")),
        ],
    )
    def test_what_has_no_meaning_is_refused(self, listed, words):
        with pytest.raises(SchemaError) as caught:
            infer_schema(self.frame(), "y", **{"noise_correlation": {"x": 3}, **listed})
        assert caught.value.where == "columns.noise_correlation.x"
        assert all(word in str(caught.value) for word in words)

    def test_there_must_be_such_a_column(self):
        with pytest.raises(SchemaError, match="there is no column 'q'") as caught:
            infer_schema(self.frame(), "y", series=self.SERIES, noise_correlation={"q": 3})
        assert caught.value.where == "columns.noise_correlation"


class TestTask:
    def test_a_target_of_few_whole_numbers_is_codes_unless_it_is_classes(self):
        frame = frame_of(grade=np.arange(ROWS) % 4)
        for task, label, cells in ((None, None, ["y", "grade"]), ("classification", "grade", ["y"])):
            schema = infer_schema(frame, "grade", task=task)
            assert (schema.label, schema.cells, schema.refined) == (label, cells, ["y"])

    def test_concerns_targets_alone(self):
        frame = frame_of(x=MEASURED)
        schema = infer_schema(frame, "y", task="classification")
        assert (schema.label, schema["x"].classes) == ("y", False)
        with pytest.raises(SchemaError, match="'z' cannot be a feature"):
            infer_schema(frame.assign(z=["a", "b"] * (ROWS // 2)), "y", features=["z"], task="classification")
