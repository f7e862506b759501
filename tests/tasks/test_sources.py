"""Reading sources whatever they look like: what comes out, and what a bad one is answered."""

import random

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from denograd_engine.errors import DataError, SchemaError
from denograd_tasks.sources import fingerprint, open_source, read_batches, source_files

SECRET = "4711.0815"
BLOCK = 400_000
"""Rows of two digits that fill more than the first block of a CSV file."""


@pytest.fixture
def write(tmp_path):
    """Writes files of a source and returns the path of the last one's top."""

    def write(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path):
    dataset = open_source(str(path))
    return pa.Table.from_batches(read_batches(str(path), dataset), dataset.schema)


def refusal(path, kind=DataError):
    """What a bad source is answered: short, and without the cell that it is about."""
    with pytest.raises(kind) as caught:
        read(path)
    assert type(caught.value) is kind
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 800
    return caught.value


def test_csv_with_byte_order_mark_quotes_and_line_breaks(write):
    path = write(data_dot_csv='\ufeffa,"b, c",d\r\n1,"x ""y"" z",\r\n2,"line\nbreak",0.5\r\n')
    assert read(path).to_pydict() == {"a": [1, 2], "b, c": ['x "y" z', "line\nbreak"], "d": [None, 0.5]}


def test_line_breaks_in_cells_are_no_ends_of_rows_far_into_the_file(write):
    rows = 100_000
    path = write(data_dot_csv="a,b\n" + "".join(f'{at},"text\n{at}"\n' for at in range(rows)))
    table = read(path)
    assert table["a"].to_pylist() == list(range(rows))
    assert table["b"][-1].as_py() == f"text\n{rows - 1}"


def test_types_of_csv_columns(write):
    path = write(
        data_dot_csv="whole,share,flag,day,at,text,none\n1,.5,true,2024-02-29,2024-02-29T12:00:00Z,a,\n,,,,,,\n"
    )
    assert [str(kind) for kind in read(path).schema.types] == [
        "int64",
        "double",
        "bool",
        "date32[day]",
        "timestamp[s, tz=UTC]",
        "string",
        "null",
    ]


def test_whole_numbers_beyond_64_bits_become_floating(write):
    table = read(write(data_dot_csv="a,b\n99999999999999999999,9223372036854775807\n1,-9223372036854775808\n"))
    assert [str(kind) for kind in table.schema.types] == ["double", "int64"]
    assert table["b"].to_pylist() == [2**63 - 1, -(2**63)]


def test_a_csv_file_with_nothing_but_a_header_has_no_rows(write):
    table = read(write(data_dot_csv="a,b\n"))
    assert (table.num_rows, table.column_names) == (0, ["a", "b"])


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_csv_file_is_refused(write, content):
    assert "Empty CSV" in refusal(write(data_dot_csv=content)).found


@pytest.mark.parametrize(("row", "found"), [(f"{SECRET},2,3", "got 3"), (SECRET, "got 1")])
@pytest.mark.parametrize("before", [1, BLOCK])
def test_a_ragged_row_is_refused_with_its_number(write, row, found, before):
    error = refusal(write(data_dot_csv="a,b\n" + "1,2\n" * before + row + "\n"))
    assert f"Row #{before + 2}: Expected 2 columns, {found}" in error.found


@pytest.mark.parametrize(
    ("first", "late", "kind"),
    [
        ("11", SECRET, "int64"),
        ("11", "it's ' : '" + SECRET, "int64"),
        ("1.5", "text " + SECRET, "double"),
        ("2024-01-01", "2024-01-01T00:00:00." + SECRET.replace(".", ""), "date32"),
        ("", SECRET, "missing cells only"),
    ],
)
def test_a_column_that_changes_its_type_is_named_with_the_line_but_not_the_cell(write, first, late, kind):
    path = write(data_dot_csv="a,the column\n" + f"1,{first}\n" * BLOCK + f'1,"{late}"\n')
    error = refusal(path)
    assert error.problem == "column 'the column' changes its type"
    assert error.expected.startswith(kind)
    assert error.found == f"another type in line {BLOCK + 2:,}"
    assert error.where == str(path)
    assert "Parquet" in error.remedy


def test_text_that_is_not_utf8_is_refused(write):
    error = refusal(write(data_dot_csv="name,a\nZürich,1\n".encode("latin-1")))
    assert error.problem == "column 'name' is no text in UTF-8"
    path = write(late_dot_csv=b"name,a\n" + b"plain,1\n" * BLOCK + "Zürich,1\n".encode("latin-1"))
    assert refusal(path).problem == "column 'name' changes its type"


def test_repeated_column_names_are_refused(write):
    assert "'a'" in refusal(write(data_dot_csv="a,b,a\n1,2,3\n"), SchemaError).problem
    repeated = pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "b", "a"])
    assert "'a'" in refusal(write(data_dot_parquet=repeated), SchemaError).problem
    path = write(data_dot_feather=b"")
    with pa.ipc.new_file(path, repeated.schema) as writer:
        writer.write_table(repeated)
    assert "'a'" in refusal(path, SchemaError).problem
    write(in__a_dot_csv="a,b\n1,2\n", in__b_dot_csv="a,a\n1,2\n")
    assert "'a'" in refusal(path.parent / "in", SchemaError).problem


@pytest.mark.parametrize("name", ["data.parquet", "data.pq", "data.arrow", "data.feather", "data.ipc"])
@pytest.mark.parametrize("content", [b"", b"no data", b"PAR1" + bytes(100) + b"PAR1", b"ARROW1\0\0" + bytes(64)])
def test_a_file_of_another_kind_than_its_name_says_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert error.where == str(tmp_path / name)
    assert "extension" in error.remedy


def big_table():
    generator = random.Random(0)
    return pa.table({"a": [generator.random() for _ in range(20_000)], "s": [SECRET] * 20_000})


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_file_is_refused(write, kept):
    path = write(data_dot_parquet=big_table())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert refusal(path).where == str(path)


def test_a_parquet_file_with_damaged_pages_is_refused(write):
    path = write(data_dot_parquet=big_table())
    raw = bytearray(path.read_bytes())
    raw[4:4000] = random.Random(0).randbytes(3996)
    path.write_bytes(bytes(raw))
    assert refusal(path).found


def test_every_known_format_is_read_whatever_the_case_of_its_extension(tmp_path):
    table = pa.table({"a": [1, 2]})
    (tmp_path / "data.CSV").write_text("a\n1\n2\n")
    pq.write_table(table, tmp_path / "data.Parquet")
    pa.feather.write_feather(table, str(tmp_path / "data.FEATHER"))
    for path in tmp_path.iterdir():
        assert read(path).equals(table)


@pytest.mark.parametrize("name", ["data.xlsx", "data.csv.gz", "data", "parquet"])
def test_a_file_of_unknown_format_is_refused(tmp_path, name):
    (tmp_path / name).write_text("a\n1\n")
    error = refusal(tmp_path / name)
    assert error.problem == "the source is of no known format"
    assert ".csv, .parquet" in error.expected


def test_a_source_that_is_not_there_is_refused(tmp_path):
    assert refusal(tmp_path / "none.csv").problem == "the source does not exist"


def test_a_folder_is_read_in_the_order_of_its_paths_without_hidden_files(write, tmp_path):
    write(
        in__b_dot_csv="a\n2\n",
        in__a_dot_csv="a\n1\n",
        in__c__d_dot_csv="a\n3\n",
        in___temporary__x_dot_csv="b\n8\n",
        in___dot_hidden_dot_csv="b\n9\n",
        in__notes_dot_txt="nothing",
    )
    (tmp_path / "in" / ".git").mkdir()
    (tmp_path / "in" / ".git" / "x.csv").write_text("b\n7\n")
    (tmp_path / "in" / "_SUCCESS").write_text("")
    assert read(tmp_path / "in").to_pydict() == {"a": [1, 2, 3]}
    assert [path.name for path in source_files(str(tmp_path / "in"))] == ["a.csv", "b.csv", "d.csv"]


def test_a_folder_without_data_is_refused(write, tmp_path):
    write(in__notes_dot_txt="nothing", in___hidden_dot_csv="a\n1\n")
    assert refusal(tmp_path / "in").problem == "the source folder holds no data"


def test_a_folder_of_several_formats_is_refused(write, tmp_path):
    write(in__a_dot_csv="a\n1\n", in__b_dot_parquet=pa.table({"a": [1]}))
    error = refusal(tmp_path / "in")
    assert (error.problem, error.found) == ("the source folder mixes file formats", "csv, parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_with_different_columns_are_refused(write, tmp_path, suffix):
    if suffix == "csv":
        write(in__a_dot_csv="a,b\n1,2\n", in__b_dot_csv="a,c\n3,4\n")
    else:
        write(in__a_dot_parquet=pa.table({"a": [1], "b": [2]}), in__b_dot_parquet=pa.table({"a": [3], "c": [4]}))
    error = refusal(tmp_path / "in", SchemaError)
    assert error.found == "without 'b'; with 'c'"
    assert error.where == str(tmp_path / "in" / f"b.{suffix}")
    assert f"a.{suffix}" in error.expected


def test_columns_are_matched_by_name_across_files(write, tmp_path):
    write(in__a_dot_csv="a,b\n1,2\n", in__b_dot_csv="b,a\n4,3\n")
    assert read(tmp_path / "in").to_pydict() == {"a": [1, 3], "b": [2, 4]}


def test_types_are_widened_to_hold_every_file(write, tmp_path):
    write(in__a_dot_csv="a,b,c\n", in__b_dot_csv="a,b,c\n1,2,x\n", in__c_dot_csv="a,b,c\n3,4.5,y\n")
    assert read(tmp_path / "in").to_pydict() == {"a": [1, 3], "b": [2.0, 4.5], "c": ["x", "y"]}
    write(pq__a_dot_parquet=pa.table({"a": pa.array([1], pa.int32())}), pq__b_dot_parquet=pa.table({"a": [2.5]}))
    assert read(tmp_path / "pq").to_pydict() == {"a": [1.0, 2.5]}


def test_whole_numbers_that_widening_would_change_are_refused(write, tmp_path):
    write(in__a_dot_parquet=pa.table({"a": [2**53 + 1]}), in__b_dot_parquet=pa.table({"a": [0.5]}))
    error = refusal(tmp_path / "in")
    assert str(2**53 + 1) not in str(error)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_of_types_without_a_common_one_are_refused(write, tmp_path, suffix):
    if suffix == "csv":
        write(in__a_dot_csv="a\n1\n", in__b_dot_csv=f"a\ntext {SECRET}\n")
    else:
        write(in__a_dot_parquet=pa.table({"a": [1]}), in__b_dot_parquet=pa.table({"a": [SECRET]}))
    error = refusal(tmp_path / "in", SchemaError)
    assert "Field a" in error.found
    assert error.where == str(tmp_path / "in")


def test_an_unreadable_file_in_a_folder_is_named(write, tmp_path):
    write(in__a_dot_parquet=pa.table({"a": [1]}), in__b_dot_parquet=b"no data")
    assert refusal(tmp_path / "in").where == str(tmp_path / "in" / "b.parquet")


def test_the_fingerprint_is_of_names_and_bytes(write, tmp_path):
    path = write(in__a_dot_csv="a\n1\n")
    folder = str(tmp_path / "in")
    before = fingerprint(folder)
    assert fingerprint(folder) == before == fingerprint(str(path))
    path.write_text("a\n2\n")
    changed = fingerprint(folder)
    path.rename(path.with_name("b.csv"))
    assert len({before, changed, fingerprint(folder)}) == 3
