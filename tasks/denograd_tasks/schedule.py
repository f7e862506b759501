"""When deployed runs start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

ANCHOR = datetime(2000, 1, 1, tzinfo=UTC)
"""What intervals are counted from, so that 15m starts at every full quarter of an hour."""
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _text(given: Any) -> Any:
    return str(given) if type(given) in (int, float) else given


class ScheduleSettings(BaseModel):
    """When deployed runs start: `cron`, or `interval`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str | None = Field(None, description="A cron expression, such as 0 3 * * * for every night at three.")
    timezone: str = Field("UTC", description="Of the cron expression, such as Europe/Zurich.")
    interval: Annotated[str, BeforeValidator(_text), Field(pattern=r"^[1-9]\d*[smhd]?$")] | None = Field(
        None, description="From one start to the next: seconds, or such as 15m, 1h or 1d."
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, given: str | None) -> str | None:
        from prefect.client.schemas.schedules import CronSchedule

        try:
            CronSchedule(cron=given or "* * * * *")
        except ValueError:
            raise PydanticCustomError("cron", "five fields: minute, hour, day, month, weekday") from None
        return given

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, given: str) -> str:
        from zoneinfo import available_timezones

        if given not in available_timezones():
            raise PydanticCustomError("timezone", "a name of the time zone database")
        return given

    @model_validator(mode="after")
    def _is_one_of_both(self) -> ScheduleSettings:
        if (self.cron is None) == (self.interval is None):
            raise PydanticCustomError("one_of_both", "either cron or interval")
        return self

    def prefect(self) -> CronSchedule | IntervalSchedule:
        """The schedule as Prefect has it."""
        from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

        if self.cron is not None:
            return CronSchedule(cron=self.cron, timezone=self.timezone)
        unit = (self.interval or "").lstrip("0123456789")
        seconds = int((self.interval or "").removesuffix(unit)) * UNITS[unit]
        return IntervalSchedule(interval=timedelta(seconds=seconds), anchor_date=ANCHOR, timezone="UTC")
