"""Which model of a data set is its champion, and where training began, as records and manifests say it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Contest(BaseModel):
    """A model that was just trained beside the champion of before: both measured on the same held-out rows.

    Attributes:
        model: The version that was registered for it, such as readings/4.
        champion: The champion of before.
        skill: Mean skill of the model, see `denograd_engine.unseen`; None where the two could not be compared.
        champion_skill: Likewise, of the champion of before.
        rows: Rows, or windows, that both were measured on.
        new: Whether the snapshot that the champion learnt has none of them; else it may have learnt some.
        reason: Why they could not be compared; None where they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    champion: str
    skill: float | None = None
    champion_skill: float | None = None
    rows: int = 0
    new: bool = False
    reason: str | None = None

    @property
    def won(self) -> bool:
        """Whether the new model is the champion now."""
        return self.skill is None or self.champion_skill is None or self.skill >= self.champion_skill

    def words(self) -> str:
        """Who is champion now, and why.

        >>> Contest(model="a/4", champion="a/3", skill=0.83, champion_skill=0.79, rows=412, new=True).words()
        'a/4, skill 0.830 on 412 new rows; a/3 has 0.790'
        >>> Contest(model="a/4", champion="a/3", skill=0.7, champion_skill=0.79, rows=80).words()
        'a/3, skill 0.790 on 80 held-out rows; a/4 has 0.700'
        >>> Contest(model="a/4", champion="a/3", reason="the model was trained on other columns").words()
        'a/4, not compared with a/3: the model was trained on other columns'
        """
        if self.skill is None or self.champion_skill is None:
            return f"{self.model}, not compared with {self.champion}: {self.reason}"
        ranked = [(self.model, self.skill), (self.champion, self.champion_skill)]
        (first, most), (second, less) = ranked if self.won else ranked[::-1]
        kind = "new" if self.new else "held-out"
        return f"{first}, skill {most:.3f} on {self.rows:,} {kind} rows; {second} has {less:.3f}"


class Start(BaseModel):
    """The champion that a training after drift was to go on from.

    Attributes:
        model: Its version, such as readings/3.
        digest: sha256 of architecture, weights and scaling.
        snapshot: Digest of the snapshot that it learnt; None if that was not written down.
        reason: Why training began with random weights all the same; None where it went on from this model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    digest: str | None
    snapshot: str | None
    reason: str | None = None

    def words(self) -> str:
        """Where training began.

        >>> Start(model="a/3", digest=None, snapshot=None).words()
        'from a/3'
        >>> Start(model="a/3", digest=None, snapshot=None, reason="it is another network").words()
        'from random weights, not from a/3: it is another network'
        """
        if self.reason is None:
            return f"from {self.model}"
        return f"from random weights, not from {self.model}: {self.reason}"
