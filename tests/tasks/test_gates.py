"""Bounds on measured values, and evidence that says the same as the verdict."""

import html
import math
import re
from html.parser import HTMLParser
from pathlib import PurePosixPath

import pytest

from denograd_tasks.gates import Measured, judge
from denograd_tasks.store import Store

ODD = "<script>alert(1)</script> $price ${x} %s {{ 7*7 }} \"q\" & 'a' 温度"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "published"))


def verdicts(store, *measured):
    gates, _ = judge("gates", measured, store, "set/evidence")
    return [gate.passed for gate in gates]


def visible(page):
    """The text of a page of Data Docs as a reader sees it."""
    plain = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def test_values_within_their_bounds_pass_and_bounds_belong_to_them(store):
    assert verdicts(
        store,
        Measured("below", 0.1, maximum=0.15),
        Measured("at the upper bound", 0.15, maximum=0.15),
        Measured("just above", math.nextafter(0.15, 1), maximum=0.15),
        Measured("above", 0.2, minimum=0.1),
        Measured("at the lower bound", 0.1, minimum=0.1),
        Measured("just below", math.nextafter(0.1, 0), minimum=0.1),
        Measured("between", 1.0, minimum=0.7, maximum=1.1),
        Measured("outside", 1.2, minimum=0.7, maximum=1.1),
        Measured("a point", 1.0, minimum=1, maximum=1),
        Measured("negative", -5, minimum=-10, maximum=-1),
        Measured("zero", 0, minimum=0),
        Measured("a whole number", 100, minimum=50),
    ) == [True, True, False, True, True, False, True, False, True, True, True, True]


def test_what_could_not_be_measured_fails(store):
    bounds = [{"minimum": 0}, {"maximum": 1}, {"minimum": 0, "maximum": 1}, {}]
    values = [None, math.nan, math.inf, -math.inf]
    measured = [Measured(f"{value} {bound}", value, **bound) for value in values for bound in bounds]
    gates, docs = judge("gates", measured, store, "set/evidence")
    assert {(gate.value, gate.passed) for gate in gates} == {(None, False)}
    assert "Successful Expectations 0 " in visible(store.read(docs[0].path).decode())


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1.0, 0.0, 0.15, 1.0, math.nextafter(1.0, 2), 5.0])
@pytest.mark.parametrize("bounds", [{"minimum": 0}, {"maximum": 1}, {"minimum": 0.15, "maximum": 1}, {}])
def test_a_value_is_within_its_bounds_where_great_expectations_says_so(store, value, bounds):
    measured = Measured("gate", value, **bounds)
    assert verdicts(store, measured) == [measured.within]


def test_a_value_without_bounds_passes(store):
    gates, _ = judge("gates", [Measured("free", 1e9)], store, "set/evidence")
    assert (gates[0].passed, gates[0].bound) == (True, "none")


def test_a_gate_carries_everything_that_is_known_of_it(store):
    measured = [
        Measured("swd", 0.2, None, 0.15, "warning", "distance", "raise tau"),
        Measured("rho", 0.95, 0.9),
    ]
    gates, _ = judge("gates", measured, store, "set/evidence")
    assert gates[0].model_dump() == {
        "name": "swd",
        "value": 0.2,
        "minimum": None,
        "maximum": 0.15,
        "severity": "warning",
        "passed": False,
        "meaning": "distance",
        "remedy": "raise tau",
    }
    assert [gate.severity for gate in gates] == ["warning", "error"]
    assert [gate.bound for gate in gates] == ["at most 0.15", "at least 0.9"]


def test_gates_come_back_in_the_order_given(store):
    names = ["z", "a", "m", "B", "1"]
    gates, _ = judge("gates", [Measured(name, 1.0, maximum=2) for name in names], store, "set/evidence")
    assert [gate.name for gate in gates] == names


def test_the_first_page_shows_every_value_with_its_bound_and_outcome(store):
    measured = [
        Measured("swd", 0.123, maximum=0.15, meaning="distance between rows"),
        Measured("rho", 0.456, minimum=0.9, meaning="likeness of columns"),
        Measured("skill", None, minimum=0.1, meaning="what the model knows"),
    ]
    _, docs = judge("fidelity", measured, store, "set/evidence")
    text = visible(store.read(docs[0].path).decode())
    assert "Status: Failed" in text
    assert "Successful Expectations 1 Unsuccessful Expectations 2" in text
    assert "distance between rows: at most 0.15 0.123" in text
    assert "likeness of columns: at least 0.9 0.456" in text
    assert "what the model knows: at least 0.1 --" in text


def test_all_passed_reads_as_success(store):
    _, docs = judge("fidelity", [Measured("swd", 0.1, maximum=0.15)], store, "set/evidence")
    assert "Status: Succeeded" in visible(store.read(docs[0].path).decode())


def test_the_files_of_the_evidence_are_in_the_store_and_lead_to_each_other(store):
    _, docs = judge("fidelity", [Measured("swd", 0.1, maximum=0.15)], store, "set/evidence/one")
    paths = {file.path for file in docs}
    assert set(store.list("set/evidence/one")) == paths
    assert all(store.holds(file.path, file.sha256) and store.size(file.path) == file.bytes for file in docs)
    assert sum(file.bytes for file in docs) < 1_000_000
    pages = [path for path in paths if path.endswith(".html")]
    assert len(pages) == 3
    for page in pages:
        for link in links(store.read(page).decode()):
            assert str(resolved(page, link)) in paths


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if tag == "a" and name == "href" and value]


def links(page):
    """Targets within the evidence."""
    parser = Links()
    parser.feed(page)
    return [link.partition("#")[0] for link in parser.found if not link.startswith(("http", "#", "mailto"))]


def resolved(page, link):
    parts = []
    for part in (PurePosixPath(page).parent / link).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return PurePosixPath(*parts)


def test_names_with_markup_are_shown_and_not_run(store):
    measured = [Measured("drift", 0.1, maximum=0.2, meaning=f"largest change ({ODD})")]
    gates, docs = judge("fidelity", measured, store, "set/evidence")
    assert gates[0].meaning == f"largest change ({ODD})"
    for file in docs:
        if file.path.endswith(".html"):
            assert "<script>alert(1)" not in store.read(file.path).decode()
    assert f"largest change ({ODD}): at most 0.2" in visible(store.read(docs[0].path).decode())


def test_judging_twice_keeps_the_evidence_of_the_first_time(store):
    measured = [Measured("swd", 0.1, maximum=0.15)]
    _, first = judge("fidelity", measured, store, "set/evidence")
    before = {path: store.sha256(path) for path in store.list("set/evidence")}
    _, second = judge("fidelity", measured, store, "set/evidence")
    assert all(store.sha256(path) == digest for path, digest in before.items())
    assert all(store.holds(file.path, file.sha256) for file in (*first, *second))


def test_nothing_is_left_beside_the_evidence(store, tmp_path, monkeypatch, home):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(temporary)
    judge("fidelity", [Measured("swd", 0.1, maximum=0.15)], store, "set/evidence")
    assert list(temporary.iterdir()) == []
    assert [path for path in (home / "tmp").rglob("*") if path.is_file()] == []
