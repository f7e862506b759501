"""The demonstration as a process of its own: clean output, both versions published, noise removed."""

from __future__ import annotations

from typing import Any


def test_the_demo_publishes_both_and_removes_noise_from_the_targets(process: Any) -> None:
    ran = process("demo", "--json")
    assert ran.code == 0, ran.err
    assert [one["dataset"] for one in ran.json] == ["demo-nuclei", "demo-weather"]
    for outcome in ran.json:
        assert outcome["status"] == "published"
        assert all(gate["passed"] for gate in outcome["gates"])
        assert outcome["noise_removed"]["noise removed, target"] > 0.2
        assert abs(outcome["noise_removed"]["noise removed, features"]) < 0.1
    stages = [line for line in ran.err.splitlines() if line.strip()]
    assert all(line.lstrip().startswith(("✓", "A table", "A series")) for line in stages), ran.err
