"""Verification: whatever is not as it was published is found and named, and nothing else is."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from denograd_engine.errors import ConfigError, StoreError
from denograd_tasks.audit.signing import sign, signing_key, verifying_key
from denograd_tasks.audit.verify import verify
from denograd_tasks.content import content_digest
from denograd_tasks.models import tensors_digest
from denograd_tasks.store import Store, open_store
from denograd_tasks.tables import put_bytes, put_table
from denograd_tasks.versions import canonical, commit, manifest_path, read_manifest, sealed

NEWEST = 4


class Copy:
    """A published folder of one's own to tamper with."""

    def __init__(self, root):
        self.root, self.store = root, Store(str(root))

    def manifest(self, number):
        return self.root / manifest_path("readings", number)

    def signature(self, number):
        return self.manifest(number).with_suffix(".sig")

    def content(self, number):
        return json.loads(self.manifest(number).read_text())

    def edit(self, at, /, again=True, **changes):
        """Change a manifest, and seal it again or not."""
        content = self.content(at) | changes
        self.manifest(at).write_bytes(canonical(sealed(content) if again else content))

    def data(self, number):
        return self.root / self.content(number)["files"][0]["path"]

    def snapshot(self, number):
        return self.root / self.content(number)["source"]["files"][0]["path"]

    def model(self, number, name):
        return next(self.root / one["path"] for one in self.content(number)["model"]["files"] if name in one["path"])

    def evidence(self, number, name):
        return next(self.root / one["path"] for one in self.content(number)["evidence"] if name in one["path"])

    def listed(self, path):
        """A file as a manifest lists it."""
        raw = path.read_bytes()
        return {
            "path": path.relative_to(self.root).as_posix(),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "bytes": len(raw),
        }


@pytest.fixture
def copy(audited, tmp_path):
    shutil.copytree(audited.root, tmp_path / "published")
    return Copy(tmp_path / "published")


def flip(path, at=0.5):
    raw = bytearray(path.read_bytes())
    raw[int(at * (len(raw) - 1))] ^= 1
    path.write_bytes(raw)


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def add(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1")
    return path


def changed(find, at=0.5):
    def tamper(copy):
        path = find(copy)
        flip(path, at)
        return "changed", path

    return tamper


def missing(find):
    def tamper(copy):
        path = find(copy)
        path.unlink()
        return "missing", path

    return tamper


def added(place):
    return lambda copy: ("added", add(place(copy)))


def done(kind, work, find):
    """Tampering of this kind, by `work`, to be named by the path that `find` gives."""

    def tamper(copy):
        path = find(copy)
        work(copy)
        return kind, path

    return tamper


def link_data(copy):
    """Readers of a folder follow links to folders."""
    elsewhere = add(copy.root / "elsewhere" / "part-00001.parquet").parent
    copy.data(1).with_name("more").symlink_to(elsewhere, target_is_directory=True)


def far_ahead(copy):
    shutil.copy(copy.manifest(NEWEST), copy.manifest(99_999_999))


def remove_newest(copy):
    copy.manifest(NEWEST).unlink()
    copy.signature(NEWEST).unlink()


def reorder(copy):
    one, two = copy.content(1), copy.content(2)
    copy.edit(1, **two | {"number": 1, "parent": None})
    copy.edit(2, **one | {"number": 2, "parent": two["parent"]})


def exchange_data(copy):
    """Other data of the same kind, with the digest that makes the manifest agree."""
    copy.data(NEWEST).write_bytes(copy.data(1).read_bytes())
    copy.edit(NEWEST, files=[{**copy.listed(copy.data(NEWEST)), "rows": 200}])


def with_gate(copy, number=NEWEST):
    gates = copy.content(number)["gates"]
    copy.edit(number, gates=[gates[0] | {"value": 0.99}, *gates[1:]])


def without_seal(copy):
    content = copy.content(NEWEST)
    del content["seal"]
    copy.manifest(NEWEST).write_bytes(canonical(content))


def outside(copy):
    file = copy.content(NEWEST)["files"][0] | {"path": "readings/../../secret"}
    copy.edit(NEWEST, files=[file])


def lacking(copy):
    content = copy.content(NEWEST)
    del content["model"]
    copy.manifest(NEWEST).write_bytes(canonical(sealed(content)))


def signed_by_another(copy):
    copy.signature(2).unlink()
    sign(copy.store, read_manifest(copy.store, "readings", 2), Ed25519PrivateKey.generate())


TAMPERINGS = {
    "data_flipped": changed(lambda copy: copy.data(1)),
    "data_first_byte": changed(lambda copy: copy.data(2), 0),
    "data_last_byte": changed(lambda copy: copy.data(NEWEST), 1),
    "data_truncated": done(
        "changed", lambda c: c.data(3).write_bytes(c.data(3).read_bytes()[:-1]), lambda c: c.data(3)
    ),
    "data_emptied": done("changed", lambda c: c.data(3).write_bytes(b""), lambda c: c.data(3)),
    "data_missing": missing(lambda copy: copy.data(1)),
    "data_swapped": done("changed", lambda c: swap(c.data(1), c.data(3)), lambda c: c.data(3)),
    "data_by_snapshot": done(
        "changed", lambda c: c.data(2).write_bytes(c.snapshot(2).read_bytes()), lambda c: c.data(2)
    ),
    "data_added": added(lambda copy: copy.data(1).with_name("part-00001.parquet")),
    "data_added_below": added(lambda copy: copy.data(1).parent / "more" / "part.parquet"),
    "data_added_hidden": added(lambda copy: copy.data(1).with_name(".hidden")),
    "data_added_like_a_write": added(lambda copy: copy.data(1).with_name("part-00001.parquet#1")),
    "data_added_by_a_linked_folder": done("added", link_data, lambda c: c.data(1).with_name("more")),
    "snapshot_flipped": changed(lambda copy: copy.snapshot(1)),
    "snapshot_missing": missing(lambda copy: copy.snapshot(NEWEST)),
    "snapshots_swapped": done("changed", lambda c: swap(c.snapshot(1), c.snapshot(4)), lambda c: c.snapshot(4)),
    "snapshot_added": added(lambda copy: copy.snapshot(1).with_name("part-00001.parquet")),
    "program_flipped": changed(lambda copy: copy.model(1, "model.pt2")),
    "weights_flipped": changed(lambda copy: copy.model(3, "model.safetensors")),
    "scaling_flipped": changed(lambda copy: copy.model(1, "encoder.json")),
    "architecture_flipped": changed(lambda copy: copy.model(1, "architecture.json")),
    "description_flipped": changed(lambda copy: copy.model(3, "posterior.json")),
    "model_missing": missing(lambda copy: copy.model(NEWEST, "model.pt2")),
    "models_swapped": done(
        "changed",
        lambda c: swap(c.model(1, "model.pt2"), c.model(4, "model.pt2")),
        lambda c: c.model(1, "model.pt2"),
    ),
    "model_added": added(lambda copy: copy.model(1, "model.pt2").with_name("model.pkl")),
    "report_flipped": changed(lambda copy: copy.evidence(2, "report.html")),
    "report_missing": missing(lambda copy: copy.evidence(2, "report.html")),
    "reports_swapped": done(
        "changed",
        lambda c: swap(c.evidence(1, "report.html"), c.evidence(2, "report.html")),
        lambda c: c.evidence(1, "report.html"),
    ),
    "verdict_flipped": changed(lambda copy: copy.evidence(1, "verdict.json")),
    "docs_flipped": changed(lambda copy: copy.evidence(1, "measured-values.html")),
    "rows_flipped": changed(lambda copy: copy.evidence(1, "rows.parquet")),
    "rows_missing": missing(lambda copy: copy.evidence(1, "rows.parquet")),
    "std_flipped": changed(lambda copy: copy.evidence(3, "std.parquet")),
    "evidence_added": added(lambda copy: copy.evidence(1, "rows.parquet").with_name("other.parquet")),
    "manifest_edited": done("edited", lambda c: c.edit(1, again=False, created="2020"), lambda c: c.manifest(1)),
    "manifest_edited_and_sealed": done("edited", lambda c: c.edit(2, created="2020"), lambda c: c.manifest(2)),
    "newest_edited": done("edited", lambda c: c.edit(4, again=False, created="2020"), lambda c: c.manifest(4)),
    "newest_without_seal": done("edited", without_seal, lambda c: c.manifest(4)),
    "manifest_bit": done("edited", lambda c: flip(c.manifest(4), 0.3), lambda c: c.manifest(4)),
    "manifest_space": done(
        "edited", lambda c: c.manifest(4).write_bytes(c.manifest(4).read_bytes() + b"\n"), lambda c: c.manifest(4)
    ),
    "manifest_emptied": done("edited", lambda c: c.manifest(2).write_bytes(b""), lambda c: c.manifest(2)),
    "manifest_no_object": done("edited", lambda c: c.manifest(2).write_bytes(b"[]"), lambda c: c.manifest(2)),
    "manifest_format": done("edited", lambda c: c.edit(4, format_version=2), lambda c: c.manifest(4)),
    "manifest_lacks_the_model": done("edited", lacking, lambda c: c.manifest(4)),
    "manifest_removed": done("removed", lambda c: c.manifest(2).unlink(), lambda c: c.manifest(2)),
    "first_manifest_removed": done("removed", lambda c: c.manifest(1).unlink(), lambda c: c.manifest(1)),
    "newest_removed_but_its_signature": done("removed", lambda c: c.manifest(4).unlink(), lambda c: c.manifest(4)),
    "manifests_swapped": done("exchanged", lambda c: swap(c.manifest(1), c.manifest(2)), lambda c: c.manifest(1)),
    "manifests_reordered": done("edited", reorder, lambda c: c.manifest(2)),
    "manifest_copied": done("exchanged", lambda c: shutil.copy(c.manifest(2), c.manifest(5)), lambda c: c.manifest(5)),
    "manifest_made_up_far_ahead": done("removed", far_ahead, lambda c: c.manifest(5)),
    "manifest_of_another_set": done("exchanged", lambda c: c.edit(4, dataset="other"), lambda c: c.manifest(4)),
    "first_with_a_parent": done("exchanged", lambda c: c.edit(1, parent="0" * 64), lambda c: c.manifest(1)),
    "beside_manifests": added(lambda copy: copy.manifest(1).with_name("00000001.json.bak")),
    "data_exchanged_in_the_manifest_too": done("exchanged", exchange_data, lambda c: c.data(4)),
    "snapshot_of_another_digest": done(
        "exchanged",
        lambda c: c.edit(4, source=c.content(4)["source"] | {"snapshot": "0" * 64}),
        lambda c: c.snapshot(4),
    ),
    "model_of_another_digest": done(
        "exchanged",
        lambda c: c.edit(4, model=c.content(4)["model"] | {"digest": "0" * 64}),
        lambda c: c.model(4, "model.pt2"),
    ),
    "gate_unlike_the_verdict": done("exchanged", with_gate, lambda c: c.evidence(4, "verdict.json")),
    "file_outside": done("foreign", outside, lambda c: c.root / "readings/../../secret"),
}
SIGNED_TAMPERINGS = {
    "unsigned": done("unsigned", lambda c: c.signature(2).unlink(), lambda c: c.signature(2)),
    "signature_flipped": done("unsigned", lambda c: flip(c.signature(2)), lambda c: c.signature(2)),
    "signature_emptied": done("unsigned", lambda c: c.signature(2).write_bytes(b""), lambda c: c.signature(2)),
    "signatures_swapped": done("unsigned", lambda c: swap(c.signature(1), c.signature(2)), lambda c: c.signature(1)),
    "signed_by_another": done("unsigned", signed_by_another, lambda c: c.signature(2)),
    "newest_edited_and_sealed": done("unsigned", lambda c: c.edit(4, created="2020"), lambda c: c.signature(4)),
    "signature_of_no_version": done(
        "removed", lambda c: shutil.copy(c.signature(1), c.signature(5)), lambda c: c.manifest(5)
    ),
}


def found(verified):
    return {(one.kind, one.path) for one in verified.findings}


def named(copy, tampered):
    kind, path = tampered
    return kind, str(path).removeprefix(f"{copy.root}/")


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_named(copy, name):
    tampered = TAMPERINGS[name](copy)
    verified = verify(copy.store, "readings", every=True)
    assert not verified.intact
    assert named(copy, tampered) in found(verified)


@pytest.mark.parametrize("name", SIGNED_TAMPERINGS)
def test_tampering_with_what_is_signed_is_found_and_named(copy, audited, name):
    tampered = SIGNED_TAMPERINGS[name](copy)
    verified = verify(copy.store, "readings", every=True, public_key=audited.public)
    assert named(copy, tampered) in found(verified)


def test_a_removed_newest_version_is_found_by_its_digest(copy, audited):
    head = audited.runs[-1].version.digest
    assert verify(copy.store, "readings", expect_head=head).intact
    remove_newest(copy)
    assert verify(copy.store, "readings").intact
    verified = verify(copy.store, "readings", expect_head=head)
    assert [(one.kind, one.expected) for one in verified.findings] == [("removed", head)]
    assert "removed or replaced" in verified.findings[0].problem
    older = verify(copy.store, "readings", expect_head=audited.runs[1].version.digest)
    assert "version 2 is the one with this digest, and 3 came after it" in older.findings[0].problem
    shutil.rmtree(copy.root / "readings" / "versions")
    assert "no manifest is left" in verify(copy.store, "readings", expect_head=head).findings[0].problem
    with pytest.raises(StoreError, match="no published data set"):
        verify(copy.store, "readings")


def test_what_the_published_digest_is_mlflow_knows(audited):
    from denograd_tasks.tracking import client

    newest = audited.runs[-1]
    tags = client(newest.backbone.tracking_uri).get_run(newest.backbone.run_id).data.tags
    assert tags["denograd.manifest"] == verify(Store(audited.root), "readings").head


def test_one_flipped_bit_anywhere_is_named(copy):
    """In each file that any version consists of, and in each manifest."""
    generator = np.random.default_rng(0)
    paths = {copy.manifest(number) for number in range(1, NEWEST + 1)}
    for number in range(1, NEWEST + 1):
        content = copy.content(number)
        groups = (content["files"], content["source"]["files"], content["model"]["files"])
        paths |= {copy.root / file["path"] for group in groups for file in group}
        paths |= {copy.evidence(number, name) for name in ("report", "verdict", "rows")}
    for path in sorted(paths):
        whole = path.read_bytes()
        raw = bytearray(whole)
        raw[generator.integers(len(raw))] ^= 1 << generator.integers(8)
        path.write_bytes(raw)
        verified = verify(copy.store, "readings", every=True)
        assert path.relative_to(copy.root).as_posix() in {one.path for one in verified.findings}
        path.write_bytes(whole)
    assert verify(copy.store, "readings", every=True).intact


@pytest.mark.parametrize("number", range(1, NEWEST + 1))
def test_versions_as_they_were_published_are_not_accused(audited, number):
    verified = verify(Store(audited.root), f"readings@{number}", public_key=audited.public)
    assert verified.findings == ()
    assert verified.versions == (number,)
    assert verified.signed
    assert verified.files > 10


def test_a_file_that_versions_share_is_read_once(audited):
    store = Store(audited.root)
    together = verify(store, "readings", every=True)
    assert together.intact
    assert together.versions == (1, 2, 3, 4)
    alone = [verify(store, f"readings@{number}").files for number in together.versions]
    assert max(alone) < together.files < sum(alone)


def test_only_the_files_of_the_version_asked_for_are_read(copy):
    flip(copy.data(1))
    assert verify(copy.store, "readings").intact
    assert not verify(copy.store, "readings@1").intact


def test_litter_of_runs_that_published_nothing_is_no_finding(copy):
    add(copy.root / "readings/data/0000-some-attempt/part-00000.parquet")
    add(copy.root / "readings/snapshots/00/part-00000.parquet")
    add(copy.root / "readings/evidence/input-00/docs/index.html")
    add(copy.evidence(1, "rows.parquet").parent / "123456789abc" / "report.html")
    add(copy.evidence(1, "measured-values.html").parents[1] / "20300101T000000.000000Z" / "measured-values.html")
    assert verify(copy.store, "readings", every=True).intact


def test_a_manifest_that_is_being_written_is_no_finding(copy):
    for name in ("00000005.json#1", "00000004.sig#2"):
        (copy.manifest(1).parent / name).write_bytes(b"{")
    assert verify(copy.store, "readings", every=True).intact


def publish_small(store, number):
    """A version as small as one can be, of a release that sealed nothing if its number is not given."""
    at = np.random.default_rng(number)
    observed, refined = (pa.table({"x": at.normal(size=5), "n": [f"{number}"] * 5}) for _ in range(2))
    tensors = {"w": at.normal(size=3).astype(np.float32)}
    described, scaling = json.dumps({"n": number}).encode(), b"{}"
    model = tensors_digest(described + scaling, {name: as_tensor(one) for name, one in tensors.items()})
    gates = [{"name": "rho", "value": float(number)}]
    snapshot = content_digest(observed)
    files = {
        "data": put_table(store, refined, f"small/data/{number}/part-00000.parquet"),
        "source": put_table(store, observed, f"small/snapshots/{snapshot}/part-00000.parquet"),
        "weights": put_bytes(store, save(tensors), f"small/models/{model}/model.safetensors"),
        "scaling": put_bytes(store, scaling, f"small/models/{model}/encoder.json"),
        "described": put_bytes(store, described, f"small/models/{model}/posterior.json"),
        "verdict": put_bytes(store, json.dumps({"gates": gates}).encode(), f"small/evidence/{number}/v/verdict.json"),
    }
    plain = {name: file.model_dump() for name, file in files.items()}
    body = {
        "identity": str(number),
        "files": [plain["data"] | {"rows": 5}],
        "content_digest": content_digest(refined),
        "source": {"snapshot": snapshot, "files": [plain["source"]]},
        "model": {"digest": model, "files": [plain[name] for name in ("weights", "scaling", "described")]},
        "gates": gates,
        "evidence": [plain["verdict"]],
    }
    return commit(store, "small", body).manifest


def as_tensor(array):
    import torch

    return torch.from_numpy(array)


@pytest.mark.parametrize("versions", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_long_history_is_not_accused(tmp_path, versions):
    """Sixty times while it grows, and all of it at last."""
    store = Store(str(tmp_path))
    for number in range(1, versions + 1):
        head = publish_small(store, number)
        if number % (versions // 60) == 0:
            assert verify(store, "small", expect_head=head.digest).intact
    verified = verify(store, "small", every=True)
    assert verified.findings == ()
    assert verified.versions == tuple(range(1, versions + 1))


def test_versions_in_an_object_store_are_verified_there(s3):
    store = open_store(s3)
    for number in range(3):
        publish_small(store, number)
    assert verify(store, "small", every=True).intact
    store.create("small/data/1/part-00001.parquet", b"PAR1")
    store.delete("small/data/0/part-00000.parquet")
    verified = verify(store, "small", every=True)
    assert [(one.kind, one.path) for one in verified.findings] == [
        ("missing", "small/data/0/part-00000.parquet"),
        ("added", "small/data/1/part-00001.parquet"),
    ]


def test_versions_of_releases_that_sealed_nothing_are_not_accused(tmp_path):
    store = Store(str(tmp_path))
    first = publish_small(store, 0)
    path = tmp_path / first.path
    path.write_bytes(canonical({name: value for name, value in first.content.items() if name != "seal"}))
    publish_small(store, 1)
    assert verify(store, "small", every=True).intact


def test_a_number_that_is_not_there_is_an_error(audited):
    with pytest.raises(StoreError, match="has no version 9"):
        verify(Store(audited.root), "readings@9")
    with pytest.raises(ConfigError, match="no name of a version"):
        verify(Store(audited.root), "readings@!x")


def test_a_removed_version_that_is_asked_for_is_a_finding(copy):
    copy.manifest(2).unlink()
    verified = verify(copy.store, "readings@2")
    assert [(one.kind, one.version) for one in verified.findings] == [("removed", 2)]
    assert verified.versions == ()


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_text(content)
    with pytest.raises(ConfigError, match="no key to sign with"):
        signing_key(str(path))
    with pytest.raises(ConfigError, match="no key to verify with"):
        verifying_key(path)


def test_keys_of_the_other_kind_and_absent_ones_are_refused(audited, tmp_path):
    with pytest.raises(ConfigError, match="no key to sign with"):
        signing_key(str(audited.public))
    with pytest.raises(ConfigError, match="no key to verify with"):
        verifying_key(audited.folder / "key.pem")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        signing_key(str(tmp_path / "none.pem"))
    assert caught.value.where == "publish.sign_with"


def test_a_key_may_be_a_secret_of_prefect(prefect_api, audited):
    from prefect.blocks.system import Secret

    pem = (audited.folder / "key.pem").read_text()
    Secret(value=pem).save("signing-key", overwrite=True)
    signature = signing_key("block:signing-key").sign(b"digest")
    verifying_key(audited.public).verify(signature, b"digest")
    with pytest.raises(ConfigError, match="no such block"):
        signing_key("block:another-key")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(copy, audited, tmp_path):
    digest = tmp_path / "digest"
    digest.write_text(hashlib.sha256(copy.manifest(1).read_bytes()).hexdigest())
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", audited.public, "-in", digest, "-sigfile"]
    assert subprocess.run([*command, copy.signature(1)], check=False, capture_output=True).returncode == 0
    assert subprocess.run([*command, copy.signature(2)], check=False, capture_output=True).returncode != 0


def test_a_result_that_was_published_unsigned_is_signed_by_the_next_run_that_finds_it_the_same(
    audited, clean, make_settings, tmp_path
):
    table = pq.read_table(audited.folder / "data.parquet")
    given = {"columns": {"target": "y", "ignored": "id"}}
    root = {"root": str(tmp_path / "published")}
    clean(make_settings(table, tmp_path, publish=root, **given))
    copy = Copy(tmp_path / "published")
    assert not verify(copy.store, "readings", public_key=audited.public).signed

    signing = make_settings(table, tmp_path, publish=root | {"sign_with": str(audited.folder / "key.pem")}, **given)
    assert clean(signing).version.already
    assert verify(copy.store, "readings", public_key=audited.public).intact

    copy.signature(1).unlink()
    with_gate(copy, 1)
    assert clean(signing).version.already
    assert not copy.signature(1).exists()
