"""Ed25519 signatures of manifests.

<root>/<dataset>/versions/00000007.sig      64 bytes: the signature of the manifest's sha256, as hexadecimal text

A key is made and used by OpenSSL as well:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
    sha256sum 00000007.json | head -c 64 > digest
    openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in digest -sigfile 00000007.sig
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from denograd_engine.errors import ConfigError
from denograd_tasks.blocks import referred
from denograd_tasks.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from denograd_tasks.versions import Committed

SETTING = "publish.sign_with"
VOUCHED = ("identity", "files", "content_digest", "schema", "source", "model", "gates")
"""What whoever finds a result published already has computed again, or read back."""


def signature_path(manifest: str) -> str:
    """Where the signature of the manifest at this path is."""
    return manifest.removesuffix(".json") + ".sig"


class Written(Protocol):
    """A manifest, or what retention writes down."""

    @property
    def path(self) -> str:
        """Relative to the root."""

    @property
    def digest(self) -> str:
        """sha256 of its bytes."""


def sign(store: Store, written: Written, key: Ed25519PrivateKey) -> bool:
    """Write the signature of a manifest, unless there is one; returns whether it was written."""
    return store.create(signature_path(written.path), key.sign(written.digest.encode()))


def sign_committed(store: Store, committed: Committed, body: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    """Sign a version; one that was there already only if it says what was going to be published."""
    said = committed.manifest.content
    if not committed.already or all(json.loads(json.dumps(body[name])) == said.get(name) for name in VOUCHED):
        sign(store, committed.manifest, key)


def is_signed(digest: str, signature: bytes, key: Ed25519PublicKey) -> bool:
    """Whether this is the signature of a manifest with this digest by the owner of the key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, digest.encode())
    except InvalidSignature:
        return False
    return True


def signing_key(named: str) -> Ed25519PrivateKey:
    """The private key in a file, or in the Prefect secret that `block:NAME` refers to.

    Raises:
        ConfigError: If there is none, or it is no Ed25519 key without a password.
        ServiceError: If Prefect does not answer.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from prefect.blocks.system import Secret

    secret: Secret[str] | None = referred(Secret, named, SETTING)
    pem = _read(Path(named), SETTING) if secret is None else str(secret.get()).encode()
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "this is no key to sign with",
            expected="an Ed25519 private key in PEM, without a password",
            found=named,
            where=SETTING,
            remedy="make one with: openssl genpkey -algorithm ed25519 -out key.pem",
        )
    return key


def verifying_key(path: Path) -> Ed25519PublicKey:
    """The public key in a file.

    Raises:
        ConfigError: If there is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path, "--public-key"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            "this is no key to verify with",
            expected="an Ed25519 public key in PEM",
            found=str(path),
            where="--public-key",
            remedy="make it from the private key with: openssl pkey -in key.pem -pubout -out public.pem",
        )
    return key


def _read(path: Path, where: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError("the key cannot be read", found=f"{path}: {error.strerror}", where=where) from None
