"""How a version grew out of the one before, as records and manifests say it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Parent(BaseModel):
    """The version that an appended one builds on.

    Attributes:
        number: Of it.
        digest: Of its manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    digest: str


class Appended(BaseModel):
    """What became of the rows of an appended version; all others are cell for cell those of its parent.

    Attributes:
        parent: Number of the version that it builds on.
        added: Rows that it has not.
        corrected: Rows whose source says another than it did.
        revisited: Other rows that were refined again, since steps came after them that they had not settled without.
        settled: Those of them that have now settled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: int
    added: int
    corrected: int
    revisited: int
    settled: int

    def words(self) -> str:
        """What became of the rows, in short.

        >>> Appended(parent=3, added=1200, corrected=2, revisited=0, settled=0).words()
        '1,200 rows added to version 3, 2 corrected'
        >>> Appended(parent=3, added=6, corrected=0, revisited=12, settled=6).words()
        '6 rows added to version 3, 12 refined once more, of which 6 have settled'
        """
        text = f"{self.added:,} rows added to version {self.parent}"
        text += f", {self.corrected:,} corrected" if self.corrected else ""
        if not self.revisited:
            return text
        return f"{text}, {self.revisited:,} refined once more, of which {self.settled:,} have settled"


class Unsettled(BaseModel):
    """The ends of the series, which the next appended version refines once more.

    Attributes:
        steps: After a step that settle it.
        rows: That have fewer after them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    rows: int
