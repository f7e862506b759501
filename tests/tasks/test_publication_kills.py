"""kill -9 before every change that publication, quarantine and release make: nothing half done is ever seen."""

import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from denograd_tasks import publish, quarantine
from denograd_tasks.audit.files import listed
from denograd_tasks.audit.verify import verify
from denograd_tasks.litter import GRACE, LONGEST_RUN, collect, litter_of
from denograd_tasks.refusals import find_refusal, refusals, release
from denograd_tasks.store import Store
from denograd_tasks.tracking import client
from denograd_tasks.versions import numbers, read_manifest

CHILD = """
import os, pickle, shutil, signal, sys
from pathlib import Path
import mlflow
import denograd_tasks.refusals
import denograd_tasks.stages.publish
from denograd_tasks.store import Store

def killing(function, left):
    def call(*arguments, **named):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return function(*arguments, **named)
    return call

work, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
changes = 0
while True:
    root = shutil.copytree(folder / "before", folder / str(changes))
    child = os.fork()
    if child == 0:
        left = [changes]
        for name in ("create", "delete"):
            setattr(Store, name, killing(getattr(Store, name), left))
        for module in (denograd_tasks.refusals, denograd_tasks.stages.publish):
            module.tag_run = killing(module.tag_run, left)
        sys.path[:0] = sys.argv[3:]
        from test_publication_kills import do
        do(work, str(root))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    changes += 1
"""
DATASET = "readings"


def do(work, root):
    """Publish, quarantine or release a result in this root."""
    if work.what == "release":
        store = Store(root)
        return release(store, find_refusal(store, DATASET, work.records["refined"].attempt), "it is right")
    records = {name: record.model_copy(update={"root": root}) for name, record in work.records.items()}
    settings = work.settings.model_copy(update={"publish": work.settings.publish.model_copy(update={"root": root})})
    stage = publish if work.what == "publish" else quarantine
    return stage.fn(*records.values(), settings)


@pytest.fixture
def killed(table_run, tmp_path):
    """Kills before every change; returns the work, and the root that each left. Its run keeps its tags."""

    def killed(what):
        names = ("snapshot", "checked", "backbone", "refined", "verdict", "page")
        records = {name: getattr(table_run, name) for name in names}
        if what != "publish":
            verdict = records["verdict"]
            gates = (verdict.gates[0].model_copy(update={"passed": False}), *verdict.gates[1:])
            records["verdict"] = verdict.model_copy(update={"passed": False, "gates": gates})
        work = SimpleNamespace(what=what, records=records, settings=table_run.settings)
        before = tmp_path / "before"
        _copy(Path(table_run.settings.publish.root), before)
        if what == "release":
            do(SimpleNamespace(**vars(work) | {"what": "quarantine"}), str(before))
        (tmp_path / "work").write_bytes(pickle.dumps(work))
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path / "work", tmp_path, Path(__file__).parent],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        roots = sorted((path for path in tmp_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        return work, [Store(str(root)) for root in roots]

    server, run_id = client(table_run.settings.tracking.uri), table_run.backbone.run_id
    tags = server.get_run(run_id).data.tags
    yield killed
    for name, value in tags.items():
        server.set_tag(run_id, name, value)


def _copy(root, to):
    """All that was computed; nothing that was published."""
    for path in root.rglob("*"):
        if path.is_file() and "versions" not in path.parts:
            target = to / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)


def require_whole_or_absent(store):
    published = numbers(store, DATASET)
    assert published in ([], [1])
    if published:
        assert verify(store, DATASET, every=True, expect_head=None, public_key=None).intact
    return published


def require_tidy(store, monkeypatch):
    """What the kill left is litter, and nothing else is."""
    clock = Store.clock
    ahead = LONGEST_RUN + GRACE + timedelta(minutes=1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "clock", lambda store, folder: clock(store, folder) + ahead)
        collect(store, litter_of(store, DATASET, timedelta()))
    manifest = read_manifest(store, DATASET, 1)
    assert set(store.list(DATASET)) == {file.path for file in listed(manifest.content)} | {manifest.path}


def test_a_killed_publication_is_whole_or_absent_and_the_next_one_finishes_it(killed, monkeypatch):
    work, stores = killed("publish")
    assert len(stores) == 7  # two files of the profile, the clock's object twice, the manifest, MLflow; and unharmed
    seen = []
    for store in stores:
        seen.append(require_whole_or_absent(store))
        version = do(work, store.root)
        assert (version.number, version.already) == (1, bool(seen[-1]))
        assert require_whole_or_absent(store) == [1]
        require_tidy(store, monkeypatch)
    assert seen == [*[[]] * 5, [1], [1]]


def test_a_killed_quarantine_loses_no_data_and_the_next_one_finishes_it(killed):
    work, stores = killed("quarantine")
    # two files of the profile, data, their removal from where they were staged, verdict, report, manifest; and unharmed
    assert len(stores) == 8
    for store in stores:
        refined = work.records["refined"].model_copy(update={"root": store.root})
        assert refined.located() is not None
        assert numbers(store, DATASET) == []
        assert do(work, store.root).intact()
        assert refined.located() == refined.quarantined
        (refusal,) = refusals(store, DATASET)
        assert refusal.version is None


def test_a_killed_release_is_whole_or_absent_and_the_next_one_finishes_it(killed, monkeypatch):
    work, stores = killed("release")
    assert len(stores) == 4  # data, manifest, MLflow; and unharmed
    for store in stores:
        published = numbers(store, DATASET)
        committed = do(work, store.root)
        assert (committed.manifest.number, committed.already) == (1, bool(published))
        (refusal,) = refusals(store, DATASET)
        assert refusal.version == 1
        manifest = read_manifest(store, DATASET, 1)
        assert all(store.holds(file.path, file.sha256) for file in listed(manifest.content))
        assert manifest.content["released"]["reason"] == "it is right"
        require_tidy(store, monkeypatch)
