"""Which of two models is champion, on which rows that is found out, and what a training after drift goes on from."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from denograd_engine.errors import ConfigError
from denograd_engine.schema import infer_schema
from denograd_engine.unseen import held_out, worth, worth_blind
from denograd_tasks import contest as contests
from denograd_tasks import ingest, train_backbone
from denograd_tasks.champion import Start
from denograd_tasks.contest import Champion, champion_of, start_of
from denograd_tasks.keys import lookup
from denograd_tasks.models import load_backbone
from denograd_tasks.posteriors import load_posterior
from denograd_tasks.roles import training_of
from denograd_tasks.settings import Settings
from denograd_tasks.store import open_store
from denograd_tasks.tables import read_table, to_frame
from denograd_tasks.tracking import client, fluent
from denograd_tasks.unseen import new_rows, unseen_rows

WELL = {"training": {"epochs": 25, "batch_size": 32}}
BADLY = {"training": {"epochs": 1, "learning_rate": 1e-6}}
LONGER = {"training": {"epochs": 60, "batch_size": 32}}


def rows(count, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 2)) + shift
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": np.sin(x[:, 0]) + x[:, 1] + 0.1 * generator.normal(size=count)})


BEFORE, LATER = rows(300, 1), rows(300, 2, shift=0.5)


@pytest.fixture(scope="module")
def trained(prefect_api, make_settings, tmp_path_factory):
    """Copies a table and trains on it, as a flow does; tells whether an earlier training was reused."""
    from prefect import flow

    folder = tmp_path_factory.mktemp("contest")

    @flow(name="trained")
    def both(settings):
        state = train_backbone(snapshot := ingest(settings), settings, return_state=True)
        return SimpleNamespace(
            settings=settings, snapshot=snapshot, backbone=state.result(), reused=state.name == "Cached"
        )

    def trained(table, name, **changes):
        (folder / name).mkdir(exist_ok=True)
        root = {"root": str(folder / "root")}
        return both(make_settings(table, folder / name, **{"dataset": "contested", "publish": root} | changes))

    return trained


@pytest.fixture(scope="module")
def story(trained):
    """A model of the first rows; a bad one of all, a good one of all, the bad one again, and one of other columns."""
    both = pa.concat_tables([BEFORE, LATER])
    return SimpleNamespace(
        first=trained(BEFORE, "first", backbone=WELL),
        bad=trained(both, "both", backbone=BADLY),
        good=trained(both, "both", backbone=WELL),
        again=trained(both, "both", backbone=BADLY),
        other=trained(both.rename_columns(["a", "c", "y"]), "other", backbone=WELL),
    )


def version(run):
    return run.backbone.model_uri.removeprefix("models:/")


def mlflow_run(run):
    return client(run.settings.tracking.uri).get_run(run.backbone.run_id).data


def test_the_first_model_is_champion_without_a_contest(story):
    assert story.first.backbone.contest is None
    assert story.bad.backbone.contest.champion == version(story.first)


def test_a_worse_model_does_not_become_champion(story):
    found = story.bad.backbone.contest
    assert not found.won
    assert found.skill < found.champion_skill
    assert found.model == version(story.bad)
    assert story.good.backbone.contest.champion == version(story.first)


def test_both_are_measured_on_rows_that_are_new_and_held_out(story):
    found = story.good.backbone.contest
    assert (found.won, found.new) == (True, True)
    store = open_store(story.good.settings.publish.root)
    frame = to_frame(read_table(store, story.good.snapshot.files[0].path))
    one, other = (load_backbone(run.backbone, "cpu") for run in (story.good, story.first))
    judged = held_out(frame, one.encoder, training_of(story.good.settings)) & (np.arange(600) >= 300)
    assert found.rows == judged.sum() >= 50
    assert found.skill == pytest.approx(worth(frame, one, judged).skill["y"])
    assert found.champion_skill == pytest.approx(worth(frame, other, judged).skill["y"])


def test_mlflow_is_told(story):
    told = mlflow_run(story.good)
    found = story.good.backbone.contest
    assert told.tags["denograd.champion"] == found.words()
    assert told.metrics["contest/skill"] == pytest.approx(found.skill)
    assert told.metrics["contest/champion_skill"] == pytest.approx(found.champion_skill)
    assert told.metrics["contest/rows"] == found.rows
    assert "denograd.champion" not in mlflow_run(story.first).tags


def test_a_training_that_is_reused_compares_nothing_and_moves_nothing(story):
    assert story.again.reused
    assert story.again.backbone == story.bad.backbone
    assert story.other.backbone.contest.champion == version(story.good)


def test_a_champion_of_other_columns_is_followed_by_the_new_model(story):
    found = story.other.backbone.contest
    assert (found.won, found.skill) == (True, None)
    assert found.reason == f"the model models:/{version(story.good)} was trained on other columns"
    assert champion_of(story.other.settings).name == version(story.other)
    assert mlflow_run(story.other).tags["denograd.champion"] == found.words()


def test_posterior_models_are_compared_by_what_they_explain_of_cells_without_them(trained):
    noisy = {
        "dataset": "measured",
        "columns": {"target": "y", "noise": {"b": 0.2, "y": 0.2}},
        "backbone": {},
        "refine": {"arguments": {"folds": 2, "fewest_steps": 20, "most_steps": 40, "hidden": 16}},
    }
    first = trained(BEFORE, "first", **noisy)
    second = trained(pa.concat_tables([BEFORE, LATER]), "both", **noisy)
    found = second.backbone.contest
    assert (found.champion, found.new, found.rows) == ("measured/1", True, 300)
    frame = to_frame(read_table(open_store(second.settings.publish.root), second.snapshot.files[0].path))
    for run, skill in ((second, found.skill), (first, found.champion_skill)):
        blind = worth_blind(frame, load_posterior(run.backbone, "cpu"), np.arange(600) >= 300).skill
        assert skill == pytest.approx((blind["b"] + blind["y"]) / 2)
    network = trained(BEFORE, "first", **noisy | {"refine": {"rule": "denograd"}, "backbone": BADLY})
    champion = f"measured/{2 if found.won else 1}"
    assert network.backbone.contest.reason == f"the model models:/{champion} is no backbone"


def settings_of(run, **changes):
    return Settings.model_validate(run.settings.model_dump(mode="json") | changes)


def crown(run, number):
    client(run.settings.tracking.uri).set_registered_model_alias("contested", "champion", number)


def test_rows_of_a_snapshot_that_is_gone_are_not_known_to_be_new(story, tmp_path):
    crown(story.good, version(story.good).split("/")[1])
    there = open_store(story.good.settings.publish.root)
    moved = settings_of(story.good, publish={"root": str(tmp_path)})
    for file in story.good.snapshot.files:
        open_store(str(tmp_path)).create(file.path, there.read(file.path))
    trained = train_backbone.fn(story.good.snapshot.model_copy(update={"root": str(tmp_path)}), moved)
    assert not trained.contest.new
    assert trained.contest.rows == round(0.2 * 600)
    assert trained.contest.skill == pytest.approx(trained.contest.champion_skill)
    assert trained.contest.won


def test_a_champion_is_never_unpickled(story, tmp_path):
    import mlflow
    import torch

    server, uri = client(story.good.settings.tracking.uri), story.good.settings.tracking.uri
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return type(sprung).touch, (sprung,)

    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    torch.save(Trap(), folder / "data" / "model.pth")
    mlflow.models.Model().save(str(folder / "MLmodel"))
    with fluent(uri):
        crown(story.good, server.create_model_version("contested", folder.as_uri()).version)
    trained = train_backbone.fn(story.good.snapshot, settings_of(story.good, seed=3))
    assert "is not in the pt2 format" in trained.contest.reason
    assert not sprung.exists()


def test_a_criterion_of_somebodys_own_is_run_only_if_the_configuration_names_it(trained, tmp_path):
    (tmp_path / "losses.py").write_text("def half(predicted, y):\n    return ((predicted - y) ** 2).mean() / 2\n")
    own = {"epochs": 1, "criterion": f"{tmp_path}/losses.py:half"}
    first = trained(BEFORE, "first", dataset="halved", backbone={"training": own})
    registered = {"kind": "models:/halved@champion"}
    with pytest.raises(ConfigError, match="a criterion that the configuration does not name"):
        train_backbone.fn(first.snapshot, settings_of(first, backbone=registered))
    named = settings_of(first, backbone=registered | {"training": own})
    assert train_backbone.fn(first.snapshot, named).digest == first.backbone.digest


@pytest.fixture(scope="module")
def gone_on(story):
    """A training of all rows that goes on from the model of the first ones, and one that does not."""
    champion = Champion(find(story.first).version, story.first.snapshot.digest)
    settings = settings_of(story.good, backbone=LONGER)
    trained = train_backbone.fn(story.good.snapshot, settings, champion)
    return SimpleNamespace(
        settings=settings, champion=champion, warm=trained, cold=train_backbone.fn(story.good.snapshot, settings)
    )


def find(run):
    return contests._found(run.settings, run.backbone.model_uri)


def test_a_training_goes_on_from_the_champion(story, gone_on):
    assert gone_on.warm.start == Start(
        model=version(story.first), digest=story.first.backbone.digest, snapshot=story.first.snapshot.digest
    )
    assert gone_on.warm.describe().endswith(f" epochs from {version(story.first)}")
    assert gone_on.cold.start is None
    assert len(gone_on.warm.history) < len(gone_on.cold.history)
    assert gone_on.warm.history[0][2] < gone_on.cold.history[0][2]
    tags = client(gone_on.settings.tracking.uri).get_run(gone_on.warm.run_id).data.tags
    assert tags["denograd.start"] == version(story.first)


def test_the_same_again_goes_on_to_the_same_weights_under_a_key_of_its_own(story, gone_on):
    assert train_backbone.fn(story.good.snapshot, gone_on.settings, gone_on.champion).digest == gone_on.warm.digest
    given = {"snapshot": story.good.snapshot, "settings": gone_on.settings}
    keys = {lookup(train_backbone, given | {"champion": one})[0] for one in (None, gone_on.champion, find(story.good))}
    assert len(keys) == 3


def test_rows_that_either_learnt_are_seen(story, gone_on):
    frame = to_frame(read_table(open_store(story.good.settings.publish.root), story.good.snapshot.files[0].path))
    encoder, start = load_backbone(gone_on.warm, "cpu").encoder, gone_on.warm.start
    alone = unseen_rows(frame, encoder, gone_on.settings, None)
    assert alone.sum() == round(0.2 * 600)
    both = unseen_rows(frame, encoder, gone_on.settings, start)
    assert (both == (alone & (np.arange(600) >= 300))).all()
    begun_anew = start.model_copy(update={"reason": "it is another network"})
    assert (unseen_rows(frame, encoder, gone_on.settings, begun_anew) == alone).all()
    assert unseen_rows(frame, encoder, gone_on.settings, start.model_copy(update={"snapshot": "gone"})) is None


@pytest.mark.parametrize(
    ("changes", "new"),
    [({}, 300), ({"key": "a"}, 300), ({"key": "when"}, None)],
    ids=["content", "key", "unknown"],
)
def test_rows_are_told_apart_by_their_key_or_by_what_is_read_of_them(story, changes, new):
    both = pa.concat_tables([BEFORE, LATER]).to_pandas()
    settings = settings_of(story.good, columns={"target": "y", **changes})
    both = both.assign(when=0)
    found = new_rows(both, infer_schema(both[["a", "b", "y"]], "y"), settings, story.first.snapshot.digest)
    assert new == (None if found is None else found.sum())


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        ({"kind": "transformer", "training": {"epochs": 1}}, "it is another network"),
        ({"training": {"epochs": 1, "folds": 2}}, "a fold's network must not come from one that saw the fold"),
    ],
    ids=["architecture", "folds"],
)
def test_where_it_cannot_go_on_it_says_why(story, gone_on, backbone, why):
    trained = train_backbone.fn(story.good.snapshot, settings_of(story.good, backbone=backbone), gone_on.champion)
    assert trained.start.reason == why
    assert trained.describe().endswith(f"not from {version(story.first)}: {why}")


def test_without_a_drift_training_begins_with_random_weights(story):
    assert champion_of(story.good.settings) is not None
    assert start_of(story.good.settings) is None


def test_a_run_that_was_interrupted_goes_on_from_the_champion_before_its_own(story, gone_on, monkeypatch):
    settings = gone_on.settings
    number = gone_on.warm.model_uri.rpartition("/")[2]
    crown(story.good, number)
    monkeypatch.setattr(contests, "drift_event", lambda: "event")
    assert start_of(settings).name == version_of(gone_on.warm)
    client(settings.tracking.uri).set_tag(gone_on.warm.run_id, "denograd.event", "event")
    assert start_of(settings).determinants == gone_on.champion.determinants


def version_of(record):
    return record.model_uri.removeprefix("models:/")
