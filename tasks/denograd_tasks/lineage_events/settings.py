"""Where lineage events go, as the configuration says it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LineageSettings(BaseModel):
    """Where OpenLineage events go, besides the file in the home folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None,
        pattern=r"^https?://[^/@\s]+(/[^@\s]*)?$",
        repr=False,
        description="A receiver, without credentials. Default: OPENLINEAGE_URL, or none.",
    )
    api_key: str | None = Field(
        None,
        pattern=r"^block:.+",
        repr=False,
        description="block:NAME of a Prefect Secret. Default: OPENLINEAGE_API_KEY.",
    )
    namespace: str = Field("denograd", min_length=1, description="Of the jobs.")
