"""Fifty publishers that nothing keeps apart: the store lets one win each number."""

import hashlib
from collections import Counter

from denograd_tasks.store import open_store
from denograd_tasks.versions import commit, history


def test_every_one_of_fifty_publishers_is_accounted_for(root, racing):
    def publish(at):
        return commit(open_store(root), "set", {"identity": f"result {at % 40}", "files": [], "publisher": at})

    outcomes = racing(publish, 50)
    versions = list(history(open_store(root), "set"))
    made = {one.manifest.number: at for at, one in enumerate(outcomes) if not one.already}
    assert [one.number for one in versions] == list(range(1, len(versions) + 1))
    assert {one.number: one.content["publisher"] for one in versions} == made
    for at, one in enumerate(outcomes):
        assert one.manifest == versions[one.manifest.number - 1]
        assert one.manifest.identity == f"result {at % 40}"
    assert set(Counter(one.identity for one in versions)) == {f"result {at}" for at in range(40)}
    parent = None
    for one in versions:
        assert one.content["parent"] == parent
        raw = open_store(root).read(one.path)
        parent = one.digest
        assert parent == hashlib.sha256(raw).hexdigest()
