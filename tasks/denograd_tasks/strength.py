"""The strength of a refinement, in words."""

from __future__ import annotations


def strength_in_words(strength: float, chosen: bool) -> str | None:
    """How far cells went, and who says so; None for all the way.

    Args:
        strength: Share of the way.
        chosen: Whether it was chosen on one half of the rows.

    >>> strength_in_words(0.65, chosen=True)
    '0.65, chosen on one half of the rows; the gates judge the other half'
    >>> strength_in_words(0.5, chosen=False)
    '0.5'
    >>> strength_in_words(1.0, chosen=False)
    """
    if chosen:
        return f"{strength:g}, chosen on one half of the rows; the gates judge the other half"
    return None if strength == 1 else f"{strength:g}"
