"""The catalog: what it shows, that its links lead somewhere, and that a browser shows it whole on a phone."""

import json
import re
import resource
import shutil
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from browser import needs_browser, shown
from roots import START, body_of, publish_made_up, refuse_made_up, watch_made_up

from denograd_engine.errors import ConfigError
from denograd_tasks.catalog.charts import MARKED, Points, chart, sparkline
from denograd_tasks.catalog.site import MARK, write_site
from denograd_tasks.store import Store
from denograd_tasks.tags import put_tag
from denograd_tasks.versions import canonical, commit, read_manifest, sealed
from denograd_tasks.watch.bookmark import Alarm, Bookmark, Changed, Read, write_bookmark

UGLY = "<script>alert(1)</script>"
COLUMNS = ("load", UGLY, '"quoted" & more', "x" * 60)
DRIFTS = (4, 7)
VERSIONS = 9
VOID = {"meta", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects references, tags, texts of titles, and headers of tables; fails on tags that do not match."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.references, self.tags, self.text, self.labels, self._open = [], [], "", [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, path

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.references += [found[key] for key in ("src", "href", "action", "srcset") if key in found]
        if tag == "svg" and "sign" not in found.get("class", ""):
            self.labels.append(found.get("aria-label"))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with a long and a short history, a result in quarantine, a tag and a drift; and its site."""
    folder = tmp_path_factory.mktemp("catalog")
    store = Store(str(folder / "published data"))
    publish_made_up(store, "stations", VERSIONS, COLUMNS, DRIFTS)
    watch_made_up(store, "stations", DRIFTS)
    refuse_made_up(store, "stations", VERSIONS + 1, COLUMNS)
    publish_made_up(store, "boilers", 1)
    refuse_made_up(store, "pumps", 1)
    put_tag(store, "stations", "quarterly", 3, move=False)
    newest = read_manifest(store, "stations", VERSIONS)
    changed = Changed(column="flow", kind="shape", measure="KS distance", effect=0.3, p=1e-9, rows=99, evidence=1e5)
    alarm = Alarm(at=START + timedelta(days=9), evidence=1e5, changed=(changed,))
    write_bookmark(store, "stations", Bookmark(version=newest.digest, read=Read(), state={}, alarm=alarm))
    written = write_site(store, folder / "site")
    pages = {path.relative_to(folder / "site").as_posix(): Page(path) for path in (folder / "site").rglob("*.html")}
    return SimpleNamespace(store=store, site=folder / "site", written=written, pages=pages)


def test_there_is_a_page_for_the_root_each_data_set_and_each_version(made):
    versions = {f"datasets/stations/{number}.html" for number in range(1, VERSIONS + 1)}
    sets = {f"datasets/{name}/index.html" for name in ("stations", "boilers", "pumps")}
    assert set(made.pages) == {"index.html", "datasets/boilers/1.html"} | versions | sets
    assert (made.written.datasets, made.written.versions, made.written.amiss) == (3, VERSIONS + 1, {})


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(made):
    followed = 0
    for path, page in made.pages.items():
        assert "script" not in page.tags
        for reference in page.references:
            assert "//" not in reference
            target = unquote(reference.partition("#")[0])
            assert (made.site / path).parent.joinpath(target).resolve().is_file(), (path, reference)
            followed += 1
    assert followed > 200


def test_the_first_page_says_how_each_data_set_is(made):
    text = made.pages["index.html"].text
    newest = read_manifest(made.store, "stations", VERSIONS).content
    for words in ("3 data sets, 10 versions", "version 9", "5,360", "drift since 2026-01-14 06:00", "not watched"):
        assert words in text
    left = [one["gain"] for one in newest["model"]["columns"].values()]
    assert f"{1 - sum(left) / len(left):.0%}" in text


def test_a_data_set_is_shown_over_time(made):
    page = made.pages["datasets/stations/index.html"]
    labels = " ".join(page.labels)
    for name in ("Rows", "Noise removed", "Residual", "Training skill", "Gate swd", "Gate rho", "Evidence of drift"):
        assert f"{name}: " in labels
    assert "Gate rows_kept" not in labels  # never anything but met
    assert labels.count("9 points") >= 10
    for words in ("quarterly", "Quarantine", "swd 0.31, at most 0.15", "flow, residual of load", "version 7", "holds"):
        assert words in page.text
    assert "No version is published yet" in made.pages["datasets/pumps/index.html"].text


def test_a_version_shows_its_way_its_gates_and_the_event_that_started_it(made):
    content = read_manifest(made.store, "stations", 4).content
    text = made.pages["datasets/stations/4.html"].text
    assert f"drift, event {content['run']['event']}, worker" in text
    for gate in content["gates"]:
        assert gate["name"] in text
    for digest in (content["source"]["snapshot"], content["model"]["digest"], content["parent"], content["seal"]):
        assert (digest in text) == (digest != content["seal"])
    for words in ("s3://plant/stations/", "after stations@3", "learnt the same data", "2 of 2 passed", "refine.tau"):
        assert words in text
    assert "the first version" in made.pages["datasets/stations/1.html"].text


def test_what_is_not_as_it_should_be_is_said_and_the_rest_is_shown(made, tmp_path):
    shutil.copytree(made.store.root, tmp_path / "root")
    versions = tmp_path / "root/stations/versions"
    (versions / "00000002.json").write_bytes(b"{")
    lacking = json.loads((versions / "00000005.json").read_bytes())
    del lacking["gates"]
    (versions / "00000005.json").write_bytes(canonical(sealed(lacking)))
    edited = json.loads((versions / "00000008.json").read_bytes()) | {"mode": "append"}
    (versions / "00000008.json").write_bytes(canonical(sealed(edited)))
    written = write_site(Store(str(tmp_path / "root")), tmp_path / "site")
    assert written.versions == VERSIONS - 2 + 1
    assert written.amiss["stations"] == (
        "the manifest of version 2 cannot be read",
        "the manifest of version 5 cannot be read",
        "version 9 was published after another manifest of version 8",
    )
    for page in ("index.html", "datasets/stations/index.html"):
        assert "the manifest of version 2 cannot be read" in Page(tmp_path / "site" / page).text


def test_a_release_says_who_and_why(tmp_path):
    store = Store(str(tmp_path / "root"))
    body = body_of("pumps", 1, ("load",), 100)
    body["gates"][1] |= {"value": 0.2, "passed": False}
    commit(store, "pumps", body | {"released": {"by": UGLY, "reason": f"{UGLY} is real", "at": "2026-01-05"}})
    write_site(store, tmp_path / "site")
    page = Page(tmp_path / "site/datasets/pumps/1.html")
    assert "Released against its verdict" in page.text
    assert f"{UGLY} is real" in page.text
    assert "script" not in page.tags


def test_an_empty_root_is_no_error(tmp_path):
    assert write_site(Store(str(tmp_path / "root")), tmp_path / "site").versions == 0
    assert "Nothing is published here yet" in Page(tmp_path / "site/index.html").text


def test_it_replaces_an_earlier_one_as_a_whole_and_nothing_else(made, tmp_path):
    site = tmp_path / "site"
    write_site(made.store, site)
    (site / "datasets/gone.html").write_text("")
    write_site(Store(str(tmp_path / "empty")), site)
    assert {path.name for path in site.iterdir()} == {MARK, "index.html", "style.css"}
    left = tmp_path / ".site.2147483647-0123abcd.new"
    left.mkdir()
    write_site(made.store, site)
    assert {path.name for path in tmp_path.iterdir()} == {"site", "empty"}
    for folder in (tmp_path, made.store.root):
        with pytest.raises(ConfigError, match="no place for a catalog"):
            write_site(made.store, Path(folder))


def test_of_several_at_once_one_is_there_whole(tmp_path, racing):
    store = Store(str(tmp_path / "root"))
    publish_made_up(store, "boilers", 2)
    assert [one.versions for one in racing(lambda _: write_site(store, tmp_path / "site"), 6)] == [2] * 6
    assert {path.name for path in tmp_path.iterdir()} == {"root", "site"}
    assert len(list((tmp_path / "site").rglob("*.html"))) == 4


def test_a_failure_leaves_the_earlier_one(made, tmp_path):
    site = tmp_path / "site"
    write_site(made.store, site)
    before = (site / "index.html").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_site(made.store, site)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (site / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_of_an_object_store_files_are_named_and_not_linked(s3, tmp_path):
    store = Store(s3)
    publish_made_up(store, "boilers", 2)
    write_site(store, tmp_path / "site")
    page = Page(tmp_path / "site/datasets/boilers/2.html")
    assert not [one for one in page.references if "evidence" in one or "s3" in one]
    assert read_manifest(store, "boilers", 2).content["files"][0]["path"] in page.text
    assert s3 in Page(tmp_path / "site/index.html").text


def days(count):
    return [START + timedelta(days=at) for at in range(count)]


def test_a_chart_shows_gaps_bounds_and_what_is_beyond_them():
    points = Points(
        days(5), list("abcde"), [1.0, 2.0, None, 9.0, 3.0], high=[4.0] * 5, out=[False, False, False, True, False]
    )
    svg = chart("Gate <x>", points, str)
    assert svg.count('class="line"') == 2
    assert svg.count('class="point"') == 3
    assert "<title>d: 9.0</title>" in svg
    assert 'aria-label="Gate &lt;x&gt;: 4 points, from 1.0 to 9.0, the last 3.0; 1 out of bounds"' in svg
    assert 'class="bound"' in svg


def test_of_many_points_only_those_out_of_bounds_are_drawn_one_by_one():
    count = MARKED + 1
    out = [at == 7 for at in range(count)]
    svg = chart("Rows", Points(days(count), ["v"] * count, [float(at) for at in range(count)], out=out), str)
    assert (svg.count("<circle"), svg.count('class="out"')) == (1, 1)


@pytest.mark.parametrize("values", [[], [None], [float("nan")]])
def test_without_a_value_there_is_no_chart(values):
    assert chart("Rows", Points(days(len(values)), ["v"] * len(values), values), str) == ""
    assert sparkline("Rows", values) == ""


def test_one_point_and_equal_points_have_a_chart():
    assert 'class="was"' in chart("Residual", Points(days(1), ["v"], [0.1]), str, before=[0.3])
    assert "<circle" in chart("Rows", Points([datetime(2026, 1, 1, tzinfo=UTC)], ["v"], [0.0], high=[1.0]), str)
    assert 'class="line"' in chart("Rows", Points(days(3), list("abc"), [2.0, 2.0, 2.0]), str)


WIDTH = 380
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="found"></pre><script>
const found = {}, pages = PAGES;
function look(path) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style = "width:WIDTHpx;height:9000px;border:0";
    frame.src = path;
    frame.onload = () => {
      const page = frame.contentDocument, wide = [];
      for (const element of page.querySelectorAll("body *:not(.hidden)")) {
        const box = element.getBoundingClientRect();
        if (box.width && box.right > WIDTH.5) wide.push(element.tagName + "." + (element.getAttribute("class") || ""));
      }
      found[path] = {
        wide, width: page.documentElement.scrollWidth,
        styled: frame.contentWindow.getComputedStyle(page.body).margin === "0px",
        loaded: frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name),
        charts: [...page.querySelectorAll("svg.chart")].filter(svg => svg.getBoundingClientRect().height > 60).length,
      };
      done();
    };
    document.body.append(frame);
  });
}
Promise.all(pages.map(look)).then(() => { document.getElementById("found").textContent = JSON.stringify(found); });
</script>"""


@needs_browser
def test_a_browser_shows_it_whole_on_a_phone_loads_nothing_else_and_reports_no_error(made, tmp_path):
    pages = ["index.html", "datasets/stations/index.html", "datasets/stations/7.html", "datasets/pumps/index.html"]
    shutil.copytree(made.site, tmp_path / "site")
    probe = tmp_path / "site/probe.html"
    probe.write_text(PROBE.replace("PAGES", json.dumps(pages)).replace("WIDTH", str(WIDTH)), encoding="utf-8")
    run = shown(probe, tmp_path / "profile")
    assert ":CONSOLE" not in run.stderr
    text = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, flags=re.S)
    assert text is not None
    found = json.loads(text[1])
    assert set(found) == set(pages)
    for path, page in found.items():
        assert (path, page["wide"], page["width"], page["styled"]) == (path, [], WIDTH, True)
        assert all(one.startswith((tmp_path / "site").as_uri()) for one in page["loaded"])
    assert found["datasets/stations/index.html"]["charts"] >= 12
