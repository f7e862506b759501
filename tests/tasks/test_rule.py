"""Which rule a configuration means, and settings that do not go together."""

import json

import pytest

from denograd_engine.errors import ConfigError
from denograd_engine.posterior.task import Fit
from denograd_engine.refinement import Refining
from denograd_tasks.roles import fit_of, refining_of
from denograd_tasks.rule import LIMITS, chosen_rule
from denograd_tasks.settings import Settings, parse_settings

NOISY = {"target": "y", "noise": {"a": 0.5, "y": 1}}


def settings(**changes):
    return parse_settings({"dataset": "set", "source": "data.csv", "columns": NOISY, **changes})


def refusal(**changes):
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert caught.value.where == "settings"
    return caught.value


@pytest.mark.parametrize(
    ("changes", "rule", "why"),
    [
        ({}, "posterior", "columns.noise declares that of 2 columns"),
        ({"columns": {"target": "y", "noise": {"a": 1}}}, "posterior", "columns.noise declares that of 1 column"),
        ({"columns": {"target": "y"}}, "denograd", "columns.noise declares none, which posterior would need"),
        (
            {"columns": {"target": "y"}, "series": {"time": "t"}},
            "posterior",
            "the noise of a series can be estimated",
        ),
        (
            {"columns": {"target": "y"}, "series": {"time": "t", "max_gap": "2h", "window": 24}},
            "posterior",
            "the noise of a series can be estimated",
        ),
        ({"columns": {"target": "y"}, "series": {"time": "t", "window": 12}}, "denograd", "series.window is set"),
        (
            {"columns": {"target": "y"}, "series": {"time": "t"}, "refine": {"tau": 0.2}},
            "denograd",
            "refine.tau is set",
        ),
        (
            {"columns": {"target": "y"}, "refine": {"faults": True}},
            "posterior",
            "refine.faults looks for faulty cells",
        ),
        ({"backbone": {"kind": "mlp"}}, "denograd", "backbone.kind is set"),
        ({"backbone": {"arguments": {"hidden": [8]}}}, "denograd", "backbone.arguments is set"),
        ({"backbone": {"training": {"epochs": 3}}}, "denograd", "backbone.training is set"),
        ({"refine": {"rule": "proximal"}}, "proximal", "set in refine.rule"),
        ({"refine": {"rule": "posterior"}}, "posterior", "set in refine.rule"),
        (
            {"refine": {"rule": "posterior"}, "columns": {"target": "y"}, "series": {"time": "t"}},
            "posterior",
            "set in refine.rule",
        ),
    ],
)
def test_the_rule_and_why(changes, rule, why):
    chosen = chosen_rule(settings(**changes))
    assert (chosen.rule, chosen.why) == (rule, why)
    assert chosen.posterior == (rule == "posterior")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0.2),
        ("eta", 0.1),
        ("max_epochs", 5),
        ("refine_targets", False),
        ("batch_size", 10),
        ("deadline", 5),
        ("smoothing", {"kind": "smoothgrad"}),
    ],
)
@pytest.mark.parametrize("rule", [{}, {"rule": "posterior"}])
def test_settings_of_steps_have_no_meaning_for_posteriors(name, value, rule):
    error = refusal(refine={name: value, **rule})
    assert error.problem == f"refine.{name}: this setting has no meaning for rule posterior"
    assert "refine.rule: denograd" in error.remedy
    assert settings(refine={name: value, "rule": "denograd"})


@pytest.mark.parametrize("backbone", [{"kind": "mlp"}, {"arguments": {"hidden": [3]}}, {"training": {"epochs": 3}}])
def test_posteriors_have_no_backbone(backbone):
    error = refusal(backbone=backbone, refine={"rule": "posterior"})
    assert error.problem == f"backbone.{next(iter(backbone))}: rule posterior has no backbone"


def test_a_table_needs_declared_noise():
    assert "none is declared" in refusal(columns={"target": "y"}, refine={"rule": "posterior"}).problem


@pytest.mark.parametrize("changes", [{"refine": {"rule": "denograd"}}, {"backbone": {"kind": "lstm"}}])
def test_only_posteriors_heed_how_noise_hangs_together(changes):
    columns = {"columns": {**NOISY, "noise_correlation": {"a": 12}}, "series": {"time": "t"}}
    error = refusal(**columns, **changes)
    assert error.problem.startswith("columns.noise_correlation: only rule posterior")
    assert "denograd" in error.found
    assert chosen_rule(settings(**columns)).posterior


@pytest.mark.parametrize("name", ["uncertainty", "draw", "faults"])
def test_only_posteriors_have_uncertainties(name):
    for changes in ({"refine": {"rule": "denograd"}, "columns": {"target": "y"}}, {"backbone": {"kind": "mlp"}}):
        error = refusal(**{**changes, "refine": {**changes.get("refine", {}), name: True}})
        assert error.problem.startswith(f"refine.{name}: only rule posterior")
        assert "denograd" in error.found
    assert getattr(settings(refine={name: True}).refine, name)


@pytest.mark.parametrize(
    ("arguments", "problem", "expected", "remedy"),
    [
        ({"fold": 3}, "refine.arguments.fold: there is no such setting", None, "did you mean 'folds'?"),
        ({"seed": 3}, "refine.arguments.seed: there is no such setting", None, "the keys here are: folds, "),
        ({"folds": 1}, "refine.arguments.folds: this value cannot be used", "at least 2", None),
        ({"folds": 2.5}, "refine.arguments.folds: this value cannot be used", "a whole number", None),
        ({"dropout": 1}, "refine.arguments.dropout: this value cannot be used", "a number below 1", None),
        ({"dropout": "soft"}, "refine.arguments.dropout: this value cannot be used", "a valid number", None),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(arguments, problem, expected, remedy):
    error = refusal(refine={"arguments": arguments})
    assert (error.problem, error.expected) == (problem, expected)
    assert remedy is None or error.remedy.startswith(remedy)


def test_arguments_and_seed_arrive_in_the_fit():
    assert fit_of(settings()) == Fit()
    given = settings(refine={"arguments": {"folds": 3, "dropout": 0}}, seed=7)
    assert fit_of(given) == Fit(folds=3, dropout=0.0, seed=7)
    assert fit_of(settings(seed=2**63 - 1)).seed < 2**40


def test_every_limit_is_that_of_an_argument():
    assert set(LIMITS) < set(vars(Fit()))


def test_methods_that_are_compared_go_by_steps():
    assert refining_of(settings(refine={"arguments": {"folds": 3}})) == Refining()


def test_written_down_in_full_they_mean_the_same():
    given = settings(refine={"uncertainty": True})
    again = Settings.model_validate(json.loads(given.model_dump_json()))
    assert again == given
    assert chosen_rule(again) == chosen_rule(given)
