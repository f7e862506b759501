"""A version comes out again: byte for byte here, within a tolerance elsewhere; what differs is listed."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.audit.reproduce import STRAYS, TOLERANCE, reproduce
from denograd_tasks.store import Store, sha256_of
from denograd_tasks.versions import canonical, read_manifest, resolve, sealed


@pytest.fixture
def copied(table_run, tmp_path):
    """The published folder of the small table, to be changed: its store and its manifest."""
    shutil.copytree(table_run.settings.publish.root, tmp_path / "published")
    store = Store(str(tmp_path / "published"))
    return store, resolve(store, "readings")


def edit(store, manifest, **changes):
    """The manifest again with changes."""
    content = manifest.content | changes
    (store.local / manifest.path).write_bytes(canonical(sealed(content)))
    return read_manifest(store, manifest.dataset, manifest.number)


def with_column(store, manifest, name, values):
    """The manifest again, as if the data had been published with other values in a column."""
    file = manifest.content["files"][0]
    path = store.local / file["path"]
    table = pq.read_table(path)
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, table.schema.field(at), values), path)
    return edit(store, manifest, files=[file | {"sha256": sha256_of(path)}])


def spread(store, manifest):
    """A standard deviation of column y, as the model knows it."""
    from denograd_tasks.audit.reproduce import _spreads

    return _spreads(store, manifest)["y"]


def published(store, manifest, name):
    return pq.read_table(store.local / manifest.content["files"][0]["path"])[name].to_numpy().copy()


@pytest.mark.parametrize("run", ["table_run", "series_run"])
def test_a_version_comes_out_byte_for_byte_twice_and_nothing_is_written(run, request):
    ran = request.getfixturevalue(run)
    store = Store(ran.settings.publish.root)
    before = {path: store.sha256(path) for path in store.list("")}
    for _ in range(2):
        found = reproduce(store, resolve(store, ran.settings.dataset))
        assert found.outcome == "identical"
        assert [table.path.rsplit("/", 1)[-1] for table in found.tables] == ["part-00000.parquet", "rows.parquet"]
        assert all(table.identical and not table.columns for table in found.tables)
        assert (found.differences, found.code) == ((), ())
    assert {path: store.sha256(path) for path in store.list("")} == before


def test_every_version_of_a_history_comes_out_from_a_folder_that_was_moved(audited, tmp_path):
    shutil.copytree(audited.root, tmp_path / "elsewhere")
    store = Store(str(tmp_path / "elsewhere"))
    for number in (1, 2, 3, 4):
        found = reproduce(store, resolve(store, f"readings@{number}"))
        assert (found.version, found.outcome) == (f"readings@{number}", "identical")
    assert len(reproduce(store, resolve(store, "readings@3")).tables) == 3


@pytest.mark.parametrize(
    ("shift", "rows", "outcome", "beyond"),
    [
        (TOLERANCE / 2, 300, "within tolerance", 0),
        (2 * TOLERANCE, 1, "different", 1),
        (np.nan, 1, "different", 1),
    ],
)
def test_cells_are_compared_in_standard_deviations(copied, shift, rows, outcome, beyond):
    store, manifest = copied
    values = published(store, manifest, "y")
    values[:rows] += shift * spread(store, manifest)
    found = reproduce(store, with_column(store, manifest, "y", pa.array(values)))
    assert found.outcome == outcome
    (column,) = found.tables[0].columns
    assert (column.name, column.cells, column.beyond) == ("y", rows, beyond)
    assert column.largest is None if np.isnan(shift) else column.largest == pytest.approx(shift)


def test_the_same_cells_in_other_bytes_are_within_the_tolerance(copied):
    store, manifest = copied
    found = reproduce(store, with_column(store, manifest, "y", pa.array(published(store, manifest, "y"))))
    assert found.outcome == "within tolerance"
    assert (found.tables[0].identical, found.tables[0].columns) == (False, ())


def test_what_nothing_refines_may_not_differ_at_all(copied):
    store, manifest = copied
    rooms = published(store, manifest, "rooms")
    rooms[0] += 1
    found = reproduce(store, with_column(store, manifest, "rooms", pa.array(rooms)))
    assert found.outcome == "different"
    assert [(one.name, one.cells, one.within) for one in found.tables[0].columns] == [("rooms", 1, False)]


def test_one_cell_in_so_many_may_be_further_away():
    from denograd_tasks.audit.reproduce import _differing

    before = pa.table({"y": np.zeros(2 * STRAYS), "code": np.zeros(2 * STRAYS)})
    cells = np.zeros(2 * STRAYS)
    for strays, within in ((2, True), (3, False)):
        cells[:strays] = 1.0
        after = before.set_column(0, "y", pa.array(cells))
        (found,) = _differing(before, after, {"y": 1.0}, judged=True)
        assert (found.beyond, found.largest, found.within) == (strays, 1.0, within)
    (found,) = _differing(before, before.set_column(1, "code", pa.array(cells)), {"y": 1.0}, judged=True)
    assert not found.within
    assert not _differing(before, before.slice(1), {"y": 1.0}, judged=True)[0].within


def test_what_it_was_made_with_is_compared_with_what_is_here(copied):
    store, manifest = copied
    made = manifest.content["environment"]
    then = made | {"packages": made["packages"] | {"torch": "2.9.0"}, "machine": made["machine"] | {"threads": 99}}
    found = reproduce(store, edit(store, manifest, environment=then))
    assert [(one.what, one.then) for one in found.differences] == [("torch", "2.9.0"), ("threads", "99")]
    earlier = {name: value for name, value in made.items() if name != "machine"}
    found = reproduce(store, edit(store, manifest, environment=earlier))
    assert {one.what for one in found.differences} == {"processor", "instructions", "threads", "device"}
    assert all(one.then is None for one in found.differences)


def test_a_device_that_is_not_here_is_no_obstacle(copied):
    store, manifest = copied
    settings = manifest.content["settings"] | {"device": "cuda:63"}
    assert reproduce(store, edit(store, manifest, settings=settings)).outcome == "identical"


def test_what_a_deadline_ended_cannot_be_reproduced(copied):
    store, manifest = copied
    ended = manifest.content["refinement"] | {"interrupted": True}
    with pytest.raises(ConfigError, match="readings@1 cannot be reproduced"):
        reproduce(store, edit(store, manifest, refinement=ended))


@pytest.mark.parametrize("what", ["files", "source", "model"])
def test_what_is_not_as_it_was_published_is_not_run_again(copied, what):
    store, manifest = copied
    content = manifest.content[what]
    (file, *_) = content if what == "files" else content["files"]
    (store.local / file["path"]).write_bytes(b"other")
    with pytest.raises(StoreError, match="missing or damaged"):
        reproduce(store, manifest)


def test_draws_and_a_strength_that_was_chosen_come_out_again(clean, make_settings, tmp_path):
    generator = np.random.default_rng(0)
    signal = generator.normal(size=200)
    table = pa.table({name: signal + 0.3 * generator.normal(size=200) for name in "aby"})
    quick = {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}
    settings = make_settings(
        table,
        tmp_path,
        columns={"target": "y", "noise": dict.fromkeys("aby", 0.3)},
        backbone={},
        refine={"arguments": quick, "draw": True, "strength": "auto"},
        gates={"rho": {"min": 0.97}},
    )
    ran = clean(settings)
    assert ran.refined.strength < 1
    store = Store(settings.publish.root)
    assert reproduce(store, resolve(store, "readings")).outcome == "identical"
