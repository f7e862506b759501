"""The report page: what it shows, what it escapes, and that a browser shows it whole."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import needs_browser, shown

from denograd_tasks.report_page import ColumnUncertainty, GateRow, ReportData, Uncertainty, render_report
from denograd_tasks.report_page.cells import sample_rows
from denograd_tasks.report_page.movement import measure
from denograd_tasks.report_page.stretch import most_corrected_stretch
from denograd_tasks.report_page.structure import compare_structure

SECTIONS = {"corrections", "marginals", "structure", "model", "rows", "gates", "lineage", "settings"}
UGLY = ["<script>alert(1)</script>", "a$b_c", r"$\frac{1$", "温度", '"quoted" & more', "long" * 30]
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects ids, sections in order, references and text; fails on tags that do not match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.ids, self.sections, self.references, self.tags, self.text = [], [], [], [], ""
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self._note(tag, dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data

    def _note(self, tag, attributes):
        self.tags.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
            if tag == "section":
                self.sections.append(attributes["id"])
        self.references += [attributes[key] for key in ("src", "href", "xlink:href", "action") if key in attributes]


def gates(*failed):
    known = [
        GateRow("rho", 0.97, "at least 0.90", "error", True, "Columns still follow themselves."),
        GateRow("distance", 0.04, "at most 0.15", "error", True, "Rows look alike."),
        GateRow("largest correction", 2.0, "at most 6 std", "warning", True, "No cell moved beyond reason."),
        GateRow("skill", None, "at least 0.10", "error", True, "The model knows something."),
    ]
    return [replace(gate, passed=gate.name not in failed) for gate in known]


def report(observed, refined, **changes):
    """A report on two frames, with everything that is not given made up."""
    columns = changes.pop("columns", list(observed.columns))
    scales = {name: float(np.nan_to_num(observed[name].std())) for name in columns}
    delta = [(refined[name] - observed[name]).fillna(0).to_numpy(dtype=float) / (scales[name] or 1) for name in columns]
    length = np.sqrt(np.square(delta).sum(axis=0)) if len(observed) else np.empty(0)
    rows = pd.DataFrame(
        {
            "status": pd.Categorical(
                np.where(length > 0, "converged", "within_gate"), ["converged", "stalled", "within_gate"]
            ),
            "iterations": np.where(length > 0, 12, 0),
            "residual_before": length + 0.1,
            "residual_after": length / 3 + 0.1,
            "correction": length,
        }
    )
    given = {
        "dataset": "boiler",
        "kind": "table",
        "verdict": "passed",
        "created": "2025-11-22T13:17:05+01:00",
        "observed": observed,
        "refined": refined,
        "features": columns[:-1],
        "targets": columns[-1:],
        "scales": scales,
        "time": None,
        "entity": [],
        "rows": rows,
        "history": [
            {"epoch": epoch, "train_loss": 1 / (epoch + 1), "holdout_loss": 0.3 + 0.1 * abs(epoch - 7)}
            for epoch in range(20)
        ],
        "skill": {columns[-1]: 0.62},
        "gates": gates(),
        "lineage": {"Source": {"URI": "s3://bucket/boiler", "SHA-256": "9f" * 32}, "Run": {"Trigger": "schedule"}},
        "settings_yaml": "dataset: boiler\nnote: <none>\n",
    }
    return ReportData(**(given | changes))


def table(rows=400, names=("pressure", "flow", "valve", "power"), seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(rows)
    observed = pd.DataFrame({name: common * 0.7 + rng.standard_normal(rows) for name in names})
    moved = rng.random(rows) < 0.6
    refined = observed.copy()
    for place, name in enumerate(names):
        refined[name] -= np.where(moved, 0.1 * (place + 1) * rng.standard_normal(rows), 0)
    return observed, refined


def series(steps=400, entities=3):
    rng = np.random.default_rng(1)
    parts = []
    for entity in range(entities):
        time = pd.date_range("2025-01-01", periods=steps, freq="h")
        part = pd.DataFrame({"unit": f"secret-{entity}", "time": time})
        part["load"] = np.sin(np.arange(steps) / 9) + 0.3 * rng.standard_normal(steps)
        part["heat"] = np.cos(np.arange(steps) / 9) + 0.3 * rng.standard_normal(steps)
        parts.append(part)
    observed = pd.concat(parts).sample(frac=1, random_state=0)
    refined = observed.copy()
    hard = (observed["unit"] == "secret-1") & observed["time"].between("2025-01-05", "2025-01-11")
    refined["load"] += np.where(hard, 0.5, 0.01)
    return observed, refined


def series_report(**changes):
    observed, refined = series()
    return report(observed, refined, columns=["heat", "load"], kind="series", time="time", entity=["unit"], **changes)


def cards(html):
    return {
        label: value + unit
        for label, value, unit in re.findall(r"<dt>([^<]*)<.*?<dd>([^<]*)(?:<small>(\w+)</small>)?</dd>", html)
    }


@pytest.fixture(scope="module")
def passed():
    return render_report(report(*table()))


def test_every_section_is_there_and_the_document_is_well_formed(passed):
    page = Page(passed)
    assert passed.startswith("<!DOCTYPE html>")
    assert set(page.sections) == SECTIONS
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.count("svg") > 9
    assert set(page.references) >= {f"#{section}" for section in SECTIONS}


def test_the_headline_says_what_moved(passed):
    observed, refined = table()
    moved = int((observed != refined).any(axis=1).sum())
    shown = cards(passed)
    assert shown["of rows moved"] == f"{moved / 4:.0f}%"
    assert shown["gates passed"] == "4/4"
    assert shown["skill, held-out R²"] == "0.62"
    assert shown["largest correction"].endswith("std")
    assert "2025-11-22 12:17 UTC" in passed
    assert f"{moved} of 400 rows were corrected in 4 columns" in Page(passed).text


@pytest.mark.parametrize("data", [report(*table()), series_report()], ids=["table", "series"])
def test_nothing_outside_the_page_is_referred_to(data):
    html = render_report(data)
    page = Page(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert {found[1:] for found in re.findall(r"url\((#[^)]+)\)", html)} <= set(page.ids)
    assert "@import" not in html


def test_names_are_escaped_wherever_they_appear():
    data = report(
        *table(names=UGLY),
        dataset="<b>boiler</b>",
        kind="series",
        skill={UGLY[0]: 0.5},
        lineage={"<i>Run</i>": {"<u>Key</u>": "<s>value</s>"}},
        gates=[GateRow("<em>gate</em>", 1.0, "<= 2", "error", False, "<q>why</q>")],
        verdict="refused",
        truth={"<var>noise</var>": 0.2},
    )
    page = Page(render_report(data))
    assert not {"script", "b", "i-run", "u", "s", "em", "q", "var"} & set(page.tags)
    for name in UGLY:
        assert name in page.text
    for text in ("<b>boiler</b>", "<i>Run</i>", "<u>Key</u>", "<s>value</s>", "<em>gate</em>", "<= 2", "<q>why</q>"):
        assert text in page.text


def test_a_refusal_shows_the_failing_gate_first():
    html = render_report(report(*table(), verdict="refused", gates=gates("largest correction", "distance")))
    page = Page(html)
    assert page.sections[0] == "gates"
    assert "Refused by 1 of 4 gates" in page.text
    assert "was not published" in page.text
    rows = re.findall(r'<tr class="(\w+)">.*?<td class="name">([\w ]+?)[ <]*<', html, flags=re.S)
    assert [kind for kind, _ in rows] == ["failed", "warned", "passed", "passed"]
    assert rows[0][1] == "distance"
    assert page.text.index("Rows look alike.") < page.text.index("Columns still follow themselves.")


def test_a_failed_warning_does_not_refuse():
    text = Page(render_report(report(*table(), gates=gates("largest correction")))).text
    assert "Passed, with 1 warning" in text
    assert "Refused" not in text


def test_the_same_input_gives_the_same_bytes():
    assert render_report(series_report()) == render_report(series_report())


def test_the_style_of_the_host_is_neither_used_nor_changed(passed):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.edgecolor": "red", "svg.hashsalt": None}):
        assert render_report(report(*table())) == passed
        assert mpl.rcParams["font.size"] == 30


def test_a_large_table_stays_a_small_page():
    names = [f"sensor_{place:02d}" for place in range(80)]
    rng = np.random.default_rng(2)
    observed = pd.DataFrame(rng.standard_normal((120_000, 80), dtype=np.float32), columns=names)
    refined = observed * np.float32(0.9)
    html = render_report(report(observed, refined))
    assert len(html.encode()) < 500_000
    assert "68 more columns" in html
    assert "100,000 rows picked at random" in html
    assert "the 25 most moved columns" in html


def test_a_run_that_moved_nothing_still_renders():
    observed, _ = table(60)
    html = render_report(report(observed, observed.copy()))
    page = Page(html)
    assert set(page.sections) == SECTIONS
    assert "No row moved" in page.text
    assert cards(html)["typical correction"] == "–"
    data = replace(series_report(), refined=series()[0])
    assert "No row moved" in render_report(data)


def test_no_rows_no_history_no_gates_no_skill():
    observed, refined = table()
    data = report(observed.iloc[:0], refined.iloc[:0], history=[], gates=[], skill={}, lineage={}, kind="series")
    text = Page(render_report(data)).text
    assert "There are no rows." in text
    assert "Nothing was trained" in text
    assert "No gate was checked." in text


def test_missing_constant_and_integer_columns():
    observed, refined = table(300)
    hole = np.random.default_rng(3).random(observed.shape) < 0.2
    observed, refined = observed.mask(hole), refined.mask(hole)
    observed["nothing"] = refined["nothing"] = np.nan
    observed["flat"], refined["flat"] = 3.0, 3.0
    observed["whole"] = pd.array(np.arange(300) % 7, dtype="Int64")
    refined["whole"] = observed["whole"] + pd.array(np.arange(300) % 2, dtype="Int64")
    observed.loc[5, "whole"] = refined.loc[5, "whole"] = pd.NA
    page = Page(render_report(report(observed, refined)))
    assert "nothing" in page.text
    movement = measure(observed, refined, dict.fromkeys(observed.columns, "feature"), {"whole": 2.0})
    whole = next(column for column in movement.columns if column.name == "whole")
    assert whole.largest == 0.5
    assert whole.moved_share == pytest.approx(149 / 299)
    assert whole.typical_units == 1


def test_one_column():
    text = Page(render_report(report(*table(names=["only"]), features=[]))).text
    assert "were corrected in 1 column," in text
    assert "no pair to compare" in text


def test_truth_is_shown_where_it_is_known(passed):
    html = render_report(report(*table(), truth={"noise removed, target": 0.24, "noise removed, features": -0.02}))
    assert cards(html)["noise removed, target"] == "24%"
    assert "−2%" in html
    assert Page(html).sections[0] == "truth"
    assert "truth" not in Page(passed).sections


def test_a_series_shows_its_most_corrected_stretch_but_not_whose_it_is():
    page = Page(render_report(series_report()))
    assert "overlay" in page.ids
    assert "The 150 steps where load was corrected most" in " ".join(page.text.split())
    assert "secret" not in page.text


def test_the_stretch_lies_within_one_entity_and_in_order_of_time():
    observed, refined = series()
    found = most_corrected_stretch(observed, refined, "load", 2.0, time="time", entity=["unit"])
    assert found is not None
    assert len(found.observed) == 150
    assert (np.diff(found.time) == np.timedelta64(1, "h")).all()
    assert np.sum(np.isclose(found.correction, 0.25)) == 145
    assert 0.2 < found.span[0] < found.span[1] < 0.8


@pytest.mark.parametrize("time", ["zoned", "whole", "text", "holes", None])
def test_any_time_axis_orders_a_series(time):
    observed, refined = series(60, entities=1)
    kinds = {
        "zoned": observed["time"].dt.tz_localize("Europe/Madrid"),
        "whole": observed["time"].astype("int64"),
        "text": observed["time"].astype(str),
        "holes": observed["time"].where(observed["time"] > "2025-01-02"),
    }
    for frame in (observed, refined):
        if time is not None:
            frame["time"] = kinds[time]
    found = most_corrected_stretch(observed, refined, "load", 1.0, time=time and "time", entity=[])
    assert found is not None
    assert len(found.observed) == 60
    assert (np.sort(found.time) == found.time).all()
    data = report(observed, refined, columns=["heat", "load"], kind="series", time=time and "time")
    assert "overlay" in Page(render_report(data)).ids


def test_a_few_moved_rows_of_many_are_all_measured():
    observed = pd.DataFrame({"a": np.zeros(250_000), "b": np.ones(250_000)})
    refined = observed.copy()
    refined.loc[[3, 99, 200_000], "a"] = [1.0, -2.0, 3.0]
    movement = measure(observed, refined, {"a": "feature", "b": "target"}, {"a": 2.0, "b": 1.0})
    assert (movement.moved_rows, movement.moved_cells) == (3, 3)
    assert sorted(movement.magnitudes) == [-1.0, 0.5, 1.5]
    assert movement.typical == 1.0
    assert movement.largest is not None
    assert movement.largest.name == "a"
    assert (sample_rows(250_000) == sample_rows(250_000)).all()


def test_correlations_are_pearsons_also_with_missing_cells():
    observed, refined = table()
    found = compare_structure(observed, refined, list(observed.columns))
    assert found.before == pytest.approx(observed[found.names].corr().to_numpy())
    assert found.after == pytest.approx(refined[found.names].corr().to_numpy())
    holed = observed.mask(np.random.default_rng(4).random(observed.shape) < 0.3)
    again = compare_structure(holed, refined, list(observed.columns))
    assert again.before == pytest.approx(holed[again.names].corr().to_numpy())
    top = found.most_changed(1)[0]
    assert abs(top.after - top.before) == pytest.approx(np.abs(found.difference).max())


def uncertain(observed, refined, **changes):
    """A report of a posterior model on two frames."""
    names = list(observed.columns)
    columns = [ColumnUncertainty(name, 0.3, 0.3, 0.2, 0.66, 0.22, 0.21) for name in names[:-1]]
    std = pd.DataFrame({name: np.full(len(observed), 0.2) for name in names[:-1]}).mask(observed[names[:-1]].isna())
    left = dict.fromkeys(names[:-1], 0.66) | {names[-1]: 1.0}
    made = changes.pop("uncertainty", Uncertainty(columns, std, left))
    return report(observed, refined, uncertainty=made, **changes)


@pytest.mark.parametrize("kind", ["table", "series"])
def test_a_posterior_model_says_how_sure_it_is(kind):
    html = render_report(uncertain(*table(names=[*UGLY[:3], "flow"]), kind=kind))
    page = Page(html)
    assert page.sections.index("uncertainty") == page.sections.index("corrections") + 1
    assert set(page.sections) == SECTIONS | {"uncertainty"}
    assert cards(html)["of the noise left, estimated"] == "74%"
    part = html.split('<section id="uncertainty">')[1].split("</section>")[0]
    assert part.count("<svg") == 2
    assert "Left as observed, because refining would have gained nothing" in part
    assert "1.05" in part
    assert "epoch" not in html.split('<section id="rows">')[1].split("</section>")[0]


def test_other_rules_have_no_such_section():
    assert "uncertainty" not in Page(render_report(report(*table()))).sections


def test_noise_that_was_cut_off_or_estimated_or_departs_is_marked():
    observed, refined = table()
    first, second, *_ = observed.columns
    columns = [
        ColumnUncertainty(first, 0.3, 0.5, 0.2, 0.66, 0.22, 0.21, departure="heavy"),
        ColumnUncertainty(second, 0.3, None, 0.2, 0.66, 0.0, 0.0, departure="uneven"),
    ]
    std = pd.DataFrame({name: np.full(len(observed), 0.2) for name in (first, second)})
    made = Uncertainty(columns, std, {first: 0.66, second: 0.66}, drawn=True, bounds={"<other>": 0.125})
    html = render_report(uncertain(observed, refined, uncertainty=made))
    departures = (">heavy tails<", ">noise differs from cell to cell<", "a simpler estimate")
    bounds = ("its standard deviation is at most", "&lt;other&gt;</span> 0.125")
    for words in ("declared 0.5, cut off", "noise estimated", "Cells are draws", *departures, *bounds):
        assert words in html
    nothing = render_report(uncertain(observed, refined, uncertainty=Uncertainty([], std[[]], {})))
    assert "No column has any noise that is known" in nothing


PROBE = """<!DOCTYPE html><body style="margin:0"><iframe id="page" src="report.html" style="width:390px;height:9000px;
border:0"></iframe><pre id="found"></pre><script>
document.getElementById("page").onload = event => {
  const page = event.target.contentDocument, wide = [];
  for (const element of page.querySelectorAll("body *:not(pre *)")) {
    const box = element.getBoundingClientRect();
    if (box.width && box.right > 390.5) wide.push(element.tagName + "." + (element.getAttribute("class") || ""));
  }
  const figures = [...page.querySelectorAll("svg[role=img]")].filter(svg => svg.getBoundingClientRect().height > 40);
  document.getElementById("found").textContent = JSON.stringify({
    wide, figures: figures.length, width: page.documentElement.scrollWidth,
    sections: [...page.querySelectorAll("section")].filter(part => part.offsetHeight > 60).map(part => part.id),
  });
};
</script>"""


@needs_browser
def test_a_browser_shows_it_whole_on_a_phone_and_reports_no_error(tmp_path):
    names = ["mean_arterial_blood_pressure_at_admission", "x" * 60, *UGLY[:4], "flow"]
    data = uncertain(
        *table(names=names), verdict="refused", gates=gates("distance"), truth={"noise removed": 0.2}, kind="series"
    )
    Path(tmp_path, "report.html").write_text(render_report(data), encoding="utf-8")
    Path(tmp_path, "probe.html").write_text(PROBE, encoding="utf-8")
    run = shown(Path(tmp_path, "probe.html"), tmp_path / "profile", "--window-size=800,1200")
    assert ":CONSOLE" not in run.stderr
    text = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, flags=re.S)
    assert text is not None
    found = json.loads(text[1])
    assert found["wide"] == []
    assert found["width"] == 390
    assert set(found["sections"]) == SECTIONS | {"truth", "uncertainty"}
    assert found["figures"] >= 13
