"""The demonstration as a process of its own: clean output, all versions published, noise removed by both rules."""

from __future__ import annotations

from typing import Any


def test_the_demo_publishes_all_and_shows_both_rules_side_by_side(process: Any) -> None:
    ran = process("demo", "--json")
    assert ran.code == 0, ran.err
    assert [(one["dataset"], one["rule"]) for one in ran.json] == [
        ("demo-nuclei", "posterior"),
        ("demo-nuclei-denograd", "denograd"),
        ("demo-weather", "posterior"),
        ("demo-weather-denograd", "denograd"),
    ]
    for outcome in ran.json:
        assert outcome["status"] == "published"
        assert all(gate["passed"] for gate in outcome["gates"] if gate["severity"] == "error")
        assert outcome["noise_removed"]["noise removed, target"] > 0.2
        features = outcome["noise_removed"]["noise removed, features"]
        assert features > 0.15 if outcome["rule"] == "posterior" else abs(features) < 0.1
    stages = [line for line in ran.err.splitlines() if line.strip()]
    assert all(line.lstrip().startswith(("✓", "A table", "A series")) for line in stages), ran.err
