"""Credentials of tracking servers that blocks name: each is sent to its own server alone, and kept in memory alone.

MLflow asks a plugin for them, which the variable `MLFLOW_TRACKING_AUTH` names.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from pydantic import SecretStr
from requests.auth import AuthBase

from denograd_engine.errors import ConfigError

if TYPE_CHECKING:
    from requests import PreparedRequest

    from denograd_tasks.blocks import DenogradTracking

NAME, VARIABLE = "denograd", "MLFLOW_TRACKING_AUTH"
_HEADERS: dict[str, SecretStr] = {}
"""The header of each server, by its address."""


class _Auth(AuthBase):
    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        for address, header in _HEADERS.items():
            if (request.url or "").startswith(f"{address}/"):
                request.headers["Authorization"] = header.get_secret_value()
        return request


class Provider(RequestAuthProvider):  # type: ignore[misc]
    """The plugin."""

    def get_name(self) -> str:
        return NAME

    def get_auth(self) -> AuthBase:
        return _Auth()


def remember(block: DenogradTracking) -> None:
    """Send a block's credentials with each request to its server from now on.

    Raises:
        ConfigError: If the environment names another plugin.
    """
    if block.token is not None:
        header = f"Bearer {block.token.get_secret_value()}"
    elif block.password is not None:
        pair = f"{block.username}:{block.password.get_secret_value()}"
        header = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        return
    if os.environ.setdefault(VARIABLE, NAME) != NAME:
        raise ConfigError(
            "the tracking block has credentials, and the environment names another way to get them",
            where=VARIABLE,
            remedy="unset it, or leave the credentials out of the block",
        )
    _HEADERS[block.uri.rstrip("/")] = SecretStr(header)
