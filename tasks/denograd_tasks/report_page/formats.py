"""Numbers as a reader wants them: few digits, a real minus sign, a dash where there is nothing."""

import math

MISSING = "–"


def _signed(text: str) -> str:
    return text.replace("-", "−")


def number(value: float | None) -> str:
    """Three significant digits, thousands separated.

    Example:
        >>> number(12345.6), number(0.03119), number(-2.0), number(None)
        ('12,346', '0.0312', '−2', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 1000 <= abs(value) < 1e9:
        return _signed(f"{value:,.0f}")
    return _signed(f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e"))


def std(value: float | None) -> str:
    """A length in standard deviations, with decimals that line up in a column.

    Example:
        >>> std(0.214), std(0.0123), std(0.0001), std(0.0), std(12.04)
        ('0.21', '0.012', '<0.001', '0', '12.0')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return "<0.001" if value > 0 else ">−0.001"
    if size < 0.0995:
        return _signed(f"{value:.3f}")
    return _signed(f"{value:.2f}" if size < 9.995 else f"{value:,.1f}")


def shift(value: float | None) -> str:
    """A signed difference with two decimals; `±0.00` where it rounds to nothing.

    Example:
        >>> shift(0.214), shift(-0.03), shift(0.001)
        ('+0.21', '−0.03', '±0.00')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return "±0.00" if abs(value) < 0.005 else _signed(f"{value:+.2f}")


def ratio(value: float | None) -> str:
    """A factor with two decimals.

    Example:
        >>> ratio(0.974), ratio(float("nan"))
        ('0.97', '–')
    """
    return MISSING if value is None or not math.isfinite(value) else _signed(f"{value:.2f}")


def percent(share: float | None) -> str:
    """A share as a percentage that never rounds something to nothing or nearly all to all.

    Example:
        >>> percent(0.824), percent(0.0123), percent(0.00001), percent(0.99999), percent(1), percent(-0.05)
        ('82%', '1.2%', '<0.1%', '>99.9%', '100%', '−5%')
    """
    if share is None or not math.isfinite(share):
        return MISSING
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    small = 0 < abs(value) < 9.95 or 99 < value < 100
    text = f"{value:.1f}" if small else f"{value:.0f}"
    return _signed(text.removesuffix(".0")) + "%"


def count(value: int) -> str:
    """A whole number, thousands separated.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return f"{value:,}"


def shorten(name: str, limit: int = 16) -> str:
    """A name that fits a label: its middle gives way to an ellipsis.

    Example:
        >>> shorten("mean_arterial_pressure", 12)
        'mean_a…ssure'
    """
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"
