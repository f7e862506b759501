"""Tags: one version each, whoever comes first; accepted wherever a number is."""

import pytest

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.store import Store
from denograd_tasks.tags import RESERVED, delete_tag, put_tag, tagged, tags_of
from denograd_tasks.versions import commit, parse_name, resolve


@pytest.fixture
def store(root):
    """With three versions."""
    made = Store(root)
    for identity in "abc":
        commit(made, "set", {"identity": identity, "files": []})
    return made


def named(store):
    return {tag.name: tag.number for tag in tags_of(store, "set")}


def test_a_version_is_found_by_its_tag_until_that_is_moved_or_deleted(store):
    assert named(store) == {}
    put_tag(store, "set", "quarterly-report", 2, move=False)
    tag = put_tag(store, "set", "2026-q3", 1, move=False)
    assert (tag.number, bool(tag.by), bool(tag.at)) == (1, True, True)
    assert named(store) == {"2026-q3": 1, "quarterly-report": 2}
    assert resolve(store, "set@quarterly-report").number == 2
    assert put_tag(store, "set", "2026-q3", 1, move=False) == tag
    with pytest.raises(ConfigError, match="set@1 has the tag '2026-q3'") as caught:
        put_tag(store, "set", "2026-q3", 3, move=False)
    assert "--move" in caught.value.remedy
    put_tag(store, "set", "2026-q3", 3, move=True)
    assert resolve(store, "set@2026-q3").number == 3
    assert delete_tag(store, "set", "2026-q3").number == 3
    for look in (lambda: resolve(store, "set@2026-q3"), lambda: delete_tag(store, "set", "2026-q3")):
        with pytest.raises(StoreError, match="no version with the tag '2026-q3'") as caught:
            look()
        assert caught.value.found == "quarterly-report"


def test_manifests_and_other_data_sets_know_nothing_of_tags(store):
    before = resolve(store, "set").digest
    put_tag(store, "set", "approved", 3, move=False)
    assert resolve(store, "set").digest == before
    assert tags_of(store, "other") == []
    with pytest.raises(StoreError, match="no published data set 'other'"):
        resolve(store, "other@approved")


@pytest.mark.parametrize("name", ["7", "A", "a/b", "", "-x", "a" * 65, *RESERVED])
def test_what_can_be_no_tag(store, name):
    with pytest.raises(ConfigError, match="can be no tag"):
        put_tag(store, "set", name, 1, move=False)
    assert named(store) == {}


@pytest.mark.parametrize(("at", "meant"), [("@3", 3), ("@03", 3), ("@3a", "3a"), ("@v1.0", "v1.0"), ("", None)])
def test_numbers_and_tags_are_told_apart(at, meant):
    assert parse_name(f"set{at}") == ("set", meant)


@pytest.mark.parametrize("move", [False, True])
def test_of_several_who_tag_at_once_one_wins_and_nothing_is_half_written(store, racing, move):
    results = racing(lambda at: put_tag(store, "set", "approved", 1 + at % 3, move), 9)
    winner = tagged(store, "set", "approved")
    for at, one in enumerate(results):
        if move or 1 + at % 3 == winner:
            assert one.number == 1 + at % 3
        else:
            assert isinstance(one, ConfigError)


def test_a_damaged_tag_is_named(store):
    store.create("set/tags/approved.json", b"{}")
    with pytest.raises(StoreError, match="a tag cannot be read"):
        tagged(store, "set", "approved")
