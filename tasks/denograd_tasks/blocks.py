"""Where data are published and models are tracked, as Prefect blocks that a configuration names: `block:NAME`.

Only the reference goes into settings, cache keys, records and manifests. What it stands for, with its secrets, is asked
of the Prefect API when a connection is opened.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TypeVar, cast

import httpx
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, HttpUrl, SecretStr, model_validator

from denograd_engine.errors import ConfigError, ServiceError

REFERENCE = "block:"
ABOUT = HttpUrl("https://pypi.org/project/prefect-denograd/")
LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
    "/assets/block-logos/filesystem.png"
)
"""That of Prefect's own file systems."""

KEPT = 60
"""Seconds after which a block is asked for again."""

B = TypeVar("B", bound=Block)


class DenogradStore(Block):
    """Where DenoGrad publishes versions of data sets: a folder, or a bucket with its credentials.

    Example:
        ```python
        from denograd_tasks import DenogradStore

        store = DenogradStore.load("BLOCK_NAME")
        ```

        A configuration names it as `publish: {root: "block:BLOCK_NAME"}`.
    """

    _block_type_name = "DenoGrad Store"
    _block_type_slug = "denograd-store"
    _documentation_url = ABOUT
    _logo_url = LOGO

    root: str = Field(min_length=1, description="A folder, or a URL such as s3://bucket/prefix.")
    options: SecretDict | None = Field(
        default=None,
        description="Of the bucket, by obstore's names, such as aws_access_key_id. Default: the environment's.",
    )
    allow_http: bool = Field(default=False, description="Whether the bucket may be reached without encryption.")


class DenogradTracking(Block):
    """The MLflow server that DenoGrad tracks models on, with its credentials.

    Example:
        ```python
        from denograd_tasks import DenogradTracking

        tracking = DenogradTracking.load("BLOCK_NAME")
        ```

        A configuration names it as `tracking: {uri: "block:BLOCK_NAME"}`.
    """

    _block_type_name = "DenoGrad Tracking"
    _block_type_slug = "denograd-tracking"
    _documentation_url = ABOUT
    _logo_url = LOGO

    uri: str = Field(min_length=1, description="MLflow's tracking URI, without credentials.")
    token: SecretStr | None = Field(default=None, description="Sent as a bearer token.")
    username: str | None = Field(default=None, description="Sent with the password, in place of a token.")
    password: SecretStr | None = Field(default=None, description="Of the user.")

    @model_validator(mode="after")
    def _goes_together(self) -> DenogradTracking:
        if (self.username is None) != (self.password is None) or (self.token and self.username):
            raise ValueError("either a token, or a username with its password, or neither")
        return self


def referred(kind: type[B], address: str, where: str) -> B | None:
    """The block that an address such as `block:NAME` refers to; None for any other address.

    Args:
        kind: Of the block.
        address: As in the configuration.
        where: The setting.

    Raises:
        ConfigError: If there is no such block.
        ServiceError: If the Prefect API does not answer.
    """
    from prefect.settings import get_current_settings

    if not address.startswith(REFERENCE):
        return None
    api = get_current_settings().api.url
    try:
        return cast(B, _load(kind, address.removeprefix(REFERENCE), api, int(time.monotonic() // KEPT)))
    except httpx.HTTPError as error:
        raise ServiceError(
            "the Prefect API does not answer, which would know what a block is",
            found=type(error).__name__,
            where=f"{where}: {address}",
            remedy="check PREFECT_API_URL, and that the server is up",
        ) from None
    except ValueError:  # whose message may repeat what is in the block
        raise ConfigError(
            f"{where}: there is no such block",
            expected=f"the name of a {kind.get_block_type_name()} block that can be read",
            found=address,
            where=api or "Prefect on this machine, as PREFECT_API_URL is not set",
            remedy="prefect block register -m denograd_tasks, then create it in Prefect's UI or with its save()",
        ) from None


@lru_cache
def _load(kind: type[Block], name: str, api: str | None, when: int) -> Block:
    return kind.load(name, _sync=True)  # type: ignore[call-arg, return-value]
