"""The configuration: its defaults, and what a wrong one is answered."""

import json
import os
from pathlib import Path

import pytest

from denograd_engine.backbones import REGISTRY
from denograd_engine.errors import ConfigError
from denograd_tasks.home import home
from denograd_tasks.settings import Bound, Settings, load_settings, parse_settings

SMALLEST = {"dataset": "set", "source": "data.csv", "columns": {"target": "y"}}
LONGEST_MESSAGE = 700
JARGON = (
    "literal[",
    "constrained",
    "tuple_",
    "type=",
    "input_value",
    "pydantic",
    "validator",
    "instance of",
    "dictionary",
)


def settings(**changes):
    return parse_settings({**SMALLEST, **changes})


def refusal(**changes):
    """What a wrong configuration is answered; every answer is short and in plain words."""
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    text = str(caught.value)
    assert len(text) < LONGEST_MESSAGE
    assert not [word for word in JARGON if word in text.lower()]
    assert caught.value.where.startswith("settings")
    return caught.value


@pytest.fixture
def load(tmp_path):
    """Loads a configuration file with this content."""

    def load(content):
        path = tmp_path / "conf" / "denograd.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_settings(path)

    return load


def test_every_default():
    assert settings().model_dump() == {
        "dataset": "set",
        "source": "data.csv",
        "mode": "full",
        "model": None,
        "columns": {
            "target": ("y",),
            "feature": (),
            "frozen": (),
            "ignored": (),
            "key": (),
            "bounds": {},
            "noise": {},
            "noise_correlation": {},
            "task": None,
        },
        "series": None,
        "backbone": {
            "kind": None,
            "arguments": {},
            "training": {
                "epochs": 100,
                "patience": 10,
                "batch_size": 256,
                "learning_rate": 2e-3,
                "weight_decay": 1e-2,
                "holdout": 0.2,
                "folds": None,
                "criterion": None,
            },
        },
        "refine": {
            "rule": "auto",
            "arguments": {},
            "strength": 1.0,
            "uncertainty": False,
            "draw": False,
            "faults": False,
            "tau": 0.1,
            "eta": "auto",
            "max_epochs": 100,
            "refine_targets": True,
            "batch_size": None,
            "deadline": None,
            "smoothing": None,
        },
        "input": {"min_rows": 50, "max_missing": 0.5},
        "gates": {
            "skill": {"min": 0.10, "max": None, "severity": "error"},
            "swd": {"min": None, "max": 0.15, "severity": "error"},
            "rho": {"min": 0.90, "max": None, "severity": "error"},
            "mean_drift": {"min": None, "max": 0.10, "severity": "error"},
            "std_ratio": {"min": 0.70, "max": 1.10, "severity": "error"},
            "correlation_change": {"min": None, "max": 0.10, "severity": "error"},
            "column_rho": {"min": 0.70, "max": None, "severity": "warning"},
            "harm": {"min": None, "max": 1.02, "severity": "error"},
            "largest_correction": {"min": None, "max": 6.0, "severity": "warning"},
            "correction": {"min": 0.80, "max": 1.25, "severity": "warning"},
        },
        "publish": {"root": str(home() / "published"), "retention": None, "sign_with": None},
        "tracking": {"uri": f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"},
        "lineage": {"url": None, "api_key": None, "namespace": "denograd"},
        "schedule": None,
        "watch": None,
        "work_pool": "denograd",
        "notify": None,
        "on_conflict": "wait",
        "seed": 0,
        "device": "auto",
    }


def test_defaults_of_a_series():
    assert settings(series={"time": "t"}).series.model_dump() == {
        "time": "t",
        "entity": (),
        "window": 24,
        "future": 1,
        "stride": 1,
        "max_gap": None,
        "targets_as_inputs": True,
        "flatten": False,
    }


def test_the_environment_names_home_and_tracking_server(monkeypatch, tmp_path):
    monkeypatch.setenv("DENOGRAD_HOME", str(tmp_path / "elsewhere"))
    assert settings().publish.root == str(tmp_path / "elsewhere" / "published")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert settings().tracking.uri == "http://mlflow:5000"
    assert settings(tracking={"uri": "http://other:5000"}).tracking.uri == "http://other:5000"


def test_settings_survive_json():
    given = settings(series={"time": "t", "entity": ["a", "b"]}, columns={"target": "y", "bounds": {"x": [0, None]}})
    assert Settings.model_validate(json.loads(given.model_dump_json())) == given
    assert Settings.model_json_schema()["required"] == ["dataset", "source", "columns"]


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        settings().seed = 1


@pytest.mark.parametrize("name", ["target", "feature", "frozen", "ignored"])
def test_a_single_name_stands_for_a_list_of_one(name):
    columns = {"target": "y", name: "a b"}
    assert getattr(settings(columns=columns).columns, name) == ("a b",)
    columns = {"target": "y", name: ["a", "b"]}
    assert getattr(settings(columns=columns).columns, name) == ("a", "b")


def test_a_single_entity_stands_for_a_list_of_one():
    assert settings(series={"time": "t", "entity": "id"}).series.entity == ("id",)


@pytest.mark.parametrize(("given", "kept"), [(4, "4"), (1.5, "1.5"), ("4D", "4D"), (None, None)])
def test_a_pause_may_be_a_number_or_a_duration(given, kept):
    assert settings(series={"time": "t", "max_gap": given}).series.max_gap == kept


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (0.5, 0.5), (1, 1.0)])
def test_the_step_length_is_automatic_or_a_number(given, kept):
    assert settings(refine={"eta": given}).refine.eta == kept


@pytest.mark.parametrize("kind", [*REGISTRY, "nets.py:Net", "../my nets.py:Net", "mypkg.nets:Net", "nets:Net"])
def test_a_backbone_is_one_of_ours_or_a_class_of_the_users(kind):
    assert settings(backbone={"kind": kind}).backbone.kind == kind


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (1, 1.0), (0.25, 0.25), ("0.5", 0.5)])
def test_the_strength_is_a_share_or_auto(given, kept):
    assert settings(refine={"strength": given}).refine.strength == kept


def test_a_registered_model_is_not_trained_in_folds():
    error = refusal(backbone={"kind": "models:/rooms/3", "training": {"folds": 3}})
    assert error.problem.startswith("backbone.training.folds: a registered model is taken as it is")
    assert error.found == "backbone.kind: models:/rooms/3"


@pytest.mark.parametrize("kind", ["models:/rooms/3", "models:/rooms@champion", "models:/my rooms@a-b"])
def test_a_backbone_may_be_a_registered_model(kind):
    assert settings(backbone={"kind": kind}).backbone.kind == kind


def test_a_slip_in_the_name_of_a_backbone_is_answered_with_the_nearest():
    assert refusal(backbone={"kind": "lstmm"}).remedy == "did you mean 'lstm'?"
    assert refusal(backbone={"kind": "resnet"}).remedy is None


def test_a_file_with_a_network_is_taken_from_the_folder_of_the_configuration(load, tmp_path):
    text = "dataset: set\nsource: s\ncolumns: {target: y}\nbackbone: {kind: '%s'}\n"
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "beside.py").touch()
    for given, kept in {
        "nets.py:Net": f"{folder}/nets.py:Net",
        "../nets.py:Net": f"{tmp_path}/nets.py:Net",
        "/abs/nets.py:Net": "/abs/nets.py:Net",
        "beside:Net": f"{folder}/beside.py:Net",
        "elsewhere:Net": "elsewhere:Net",
        "mypkg.nets:Net": "mypkg.nets:Net",
        "models:/rooms/3": "models:/rooms/3",
        "lstm": "lstm",
    }.items():
        assert load(text % given).backbone.kind == kept


def test_what_is_not_given_of_a_gate_keeps_its_default():
    gates = settings(
        gates={"swd": {"max": 0.3}, "std_ratio": {"severity": "warning"}, "column_rho": {"min": 0.5}, "rho": {}}
    ).gates
    assert gates.swd == Bound(max=0.3)
    assert gates.std_ratio == Bound(min=0.70, max=1.10, severity="warning")
    assert gates.column_rho == Bound(min=0.5, severity="warning")
    assert gates.rho == settings().gates.rho
    assert gates.skill == settings().gates.skill


def test_a_bound_can_be_taken_off():
    assert settings(gates={"std_ratio": {"max": None}}).gates.std_ratio == Bound(min=0.70)


def unknown_keys():
    """A key with a slip in every section, with the valid one."""
    near = {
        "datset": "dataset",
        "sources": "source",
        "column": "columns",
        "serie": "series",
        "backbones": "backbone",
        "refin": "refine",
        "inputs": "input",
        "gate": "gates",
        "publsh": "publish",
        "tracing": "tracking",
        "sed": "seed",
        "devise": "device",
        "columns.targets": "target",
        "columns.features": "feature",
        "columns.bound": "bounds",
        "series.windows": "window",
        "series.maxgap": "max_gap",
        "backbone.kinds": "kind",
        "backbone.trainning": "training",
        "backbone.training.epoch": "epochs",
        "backbone.training.lerning_rate": "learning_rate",
        "refine.Tau": "tau",
        "refine.max_epoch": "max_epochs",
        "input.min_row": "min_rows",
        "gates.sdw": "swd",
        "gates.mean_drif": "mean_drift",
        "gates.swd.maxx": "max",
        "gates.swd.severty": "severity",
        "publish.roots": "root",
        "tracking.url": "uri",
    }
    return [pytest.param(path, valid, id=path) for path, valid in near.items()]


@pytest.mark.parametrize(("path", "valid"), unknown_keys())
def test_an_unknown_key_is_refused_with_its_path_and_the_nearest_valid_one(path, valid):
    *sections, key = path.split(".")
    changes = {"series": {"time": "t"}, "columns": {"target": "y"}}
    inner = changes
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[key] = {"x": 1}
    error = refusal(**changes)
    assert error.problem == f"{path}: there is no such setting"
    assert error.remedy == f"did you mean {valid!r}?"


def test_an_unknown_key_unlike_any_is_told_which_there_are():
    assert refusal(publish={"zzz": 1}).remedy == "the keys here are: root, retention, sign_with"
    assert "dataset, source, columns" in refusal(**{"42": 1}).remedy


def test_a_key_that_is_no_text_is_refused():
    with pytest.raises(ConfigError, match=r"^1: there is no such setting"):
        parse_settings({**SMALLEST, 1: 2})


def test_an_unknown_key_is_told_before_wrong_values():
    error = refusal(refine={"tau": -1, "taus": 1}, seed=-1)
    assert error.problem == "refine.taus: there is no such setting"
    assert error.where == "settings (and 2 more)"


@pytest.mark.parametrize("path", ["dataset", "source", "columns", "columns.target", "series.time"])
def test_a_required_setting_is_named(path):
    given = {**SMALLEST, "columns": {"target": "y"}, "series": {"time": "t"}}
    *sections, key = path.split(".")
    inner = given
    for section in sections:
        inner = inner[section]
    del inner[key]
    with pytest.raises(ConfigError) as caught:
        parse_settings(given)
    assert caught.value.problem == f"{path}: this setting is required"


WRONG = [
    ("dataset", "My Data", "lower case, digits, _ . -"),
    ("dataset", "", "lower case, digits, _ . -"),
    ("dataset", "../up", "lower case, digits, _ . -"),
    ("dataset", ".hidden", "lower case, digits, _ . -"),
    ("dataset", "a/b", "lower case, digits, _ . -"),
    ("dataset", "line\n", "lower case, digits, _ . -"),
    ("dataset", "a" * 101, "lower case, digits, _ . -"),
    ("dataset", 5, "text"),
    ("source", "", "text, not empty"),
    ("source", ["a", "b"], "text"),
    ("columns", None, "a section with keys such as target, feature, frozen"),
    ("columns.target", None, "a name, or a list of names"),
    ("columns.target", {"a": 1}, "a name, or a list of names"),
    ("columns.target", [], "at least one name"),
    ("columns.frozen", None, "a name, or a list of names"),
    ("columns.bounds", [1], "a mapping"),
    ("columns.bounds.x", 5, "a list of two: [lowest, highest]"),
    ("columns.bounds.x", [1], "a list of two: [lowest, highest]"),
    ("columns.bounds.x", [1, 2, 3], "a list of two: [lowest, highest]"),
    ("columns.bounds.float.0", ["low", 2], "a valid number"),
    ("columns.bounds.x.1", [0, float("inf")], "a finite number"),
    ("series", "time", "a section with keys such as time, entity, window"),
    ("series.window", 0, "at least 1"),
    ("series.max_gap", [1], "text"),
    ("backbone.kind", "resnet", "mlp, lstm, "),
    ("backbone.kind", "resnet", "nets.py:MyNet or mypkg.nets:MyNet"),
    ("backbone.kind", "", "mlp, lstm, "),
    ("backbone.kind", 5, "text"),
    ("backbone.kind", "nets.py", "the class in the file as well, such as nets.py:MyNet"),
    ("backbone.kind", "my nets:Net", "mlp, lstm, "),
    ("backbone.kind", "models:/rooms", "models:/name/3, or models:/name@alias"),
    ("backbone.kind", "models:/rooms/latest", "models:/name/3, or models:/name@alias"),
    ("backbone.kind", "models:/rooms/0", "models:/name/3, or models:/name@alias"),
    ("backbone.arguments", 5, "a mapping"),
    ("backbone.training.epochs", 0, "at least 1"),
    ("backbone.training.epochs", 1.5, "a whole number"),
    ("backbone.training.patience", "long", "a whole number"),
    ("backbone.training.learning_rate", 0, "a number above 0"),
    ("backbone.training.weight_decay", -1, "at least 0"),
    ("backbone.training.holdout", 0.9, "a number below 0.9"),
    ("refine", [1], "a section with keys such as rule, arguments, tau"),
    ("refine.rule", "magic", "auto, posterior, denograd, gauss_newton, proximal"),
    ("refine.smoothing.kind", "blur", "'smoothgrad'"),
    ("backbone.training.criterion", "mae", "mse, l1, huber, cross_entropy; or a function of your own"),
    ("columns.noise.x", -1, "a number above 0"),
    ("columns.noise_correlation.x", 0, "at least 1"),
    ("columns.noise_correlation.x", 2.5, "a whole number"),
    ("series.future", [], "a whole number of at least 1, or a list of them"),
    ("refine.tau", "small", "a valid number"),
    ("refine.tau", None, "a valid number"),
    ("refine.tau", -1, "a number above 0"),
    ("refine.tau", float("nan"), "a finite number"),
    ("refine.tau", float("inf"), "a finite number"),
    ("refine.strength", "half", "'auto', or a number above 0 and at most 1"),
    ("refine.strength", 0, "'auto', or a number above 0 and at most 1"),
    ("refine.strength", 1.5, "'auto', or a number above 0 and at most 1"),
    ("backbone.training.folds", 1, "at least 2"),
    ("schedule", {}, "either cron or interval"),
    ("schedule", {"cron": "0 3 * * *", "interval": 60}, "either cron or interval"),
    ("schedule.cron", "every night", "five fields"),
    ("schedule.timezone", "Zurich", "a name of the time zone database"),
    ("watch.interval", "fortnightly", "From one start to the next"),
    ("watch.interval", 0, "From one start to the next"),
    ("notify", "team", "TYPE/NAME"),
    ("on_conflict", "fight", "'wait' or 'cancel'"),
    ("refine.eta", "fast", "'auto', or a number above 0"),
    ("refine.eta", 0, "'auto', or a number above 0"),
    ("refine.eta", None, "'auto', or a number above 0"),
    ("refine.refine_targets", "perhaps", "true or false"),
    ("refine.deadline", 0, "a number above 0"),
    ("input.min_rows", 0, "at least 1"),
    ("input.max_missing", 1.1, "at most 1"),
    ("gates", "off", "a section with keys such as skill, swd, rho"),
    ("gates.swd", 0.2, "a section with keys such as min, max, severity"),
    ("gates.swd", None, "a section with keys such as min, max, severity"),
    ("gates.swd", {"min": 2, "max": 1}, "a min that is not above the max"),
    ("gates.swd", {"min": 1}, "a min that is not above the max"),
    ("gates.swd.max", "high", "a valid number"),
    ("gates.swd.severity", "fatal", "'error' or 'warning'"),
    ("publish.root", "", "text, not empty"),
    ("tracking.uri", None, "text"),
    ("seed", -1, "at least 0"),
    ("seed", 2**70, "a number below"),
    ("device", "gpu", "auto, cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_value_is_refused_with_its_path_and_what_was_expected(path, value, expected):
    parts = path.split(".")
    if parts[-1].isdigit():
        parts = parts[:-1]
    changes = {"columns": {"target": "y"}, **({"series": {"time": "t"}} if parts[0] == "series" else {})}
    inner = changes
    for section in parts[:-1]:
        inner = inner.setdefault(section, {})
    inner[parts[-1]] = value
    error = refusal(**changes)
    assert error.problem == f"{path}: this value cannot be used"
    assert error.expected.startswith(expected) or expected in error.expected
    assert error.found


def test_the_answer_to_a_wrong_value_in_full():
    assert str(refusal(refine={"tau": -1, "max_epochs": 0})) == (
        "refine.tau: this value cannot be used\n"
        "  expected: a number above 0. The gate: rows with a smaller residual stay as they are.\n"
        "  found: -1\n"
        "  where: settings (and 1 more)"
    )


@pytest.mark.parametrize("target", [2024, ["a", 7]])
def test_a_name_of_digits_is_asked_for_in_quotes(target):
    assert refusal(columns={"target": target}).remedy == "write a name of digits in quotes"


def test_answers_stay_short_whatever_was_found():
    knot = []
    knot.append(knot)
    bushy = ["leaf"] * 10
    for _ in range(40):
        bushy = [bushy] * 10
    for value in ("x" * 10**6, knot, bushy, {"k" * 10**6: "v"}, b"x" * 10**6, 10**4000):
        refusal(dataset=value)
    refusal(**{"x" * 10**6: 1})
    refusal(columns={"target": "y", "bounds": {"x" * 10**6: 1}})


def test_a_file_gives_its_settings(load, tmp_path):
    loaded = load("dataset: set\nsource: data.csv\ncolumns:\n  target: y  # why\n")
    assert loaded == settings(source=str(tmp_path / "conf" / "data.csv"))


def test_relative_paths_are_taken_from_the_folder_of_the_file(load, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    text = "dataset: set\ncolumns: {target: y}\nsource: ../in/data.csv\npublish: {root: out}\n"
    loaded = load(text)
    assert loaded.source == str(tmp_path / "in" / "data.csv")
    assert loaded.publish.root == str(tmp_path / "conf" / "out")
    monkeypatch.chdir(tmp_path)
    assert load_settings("conf/denograd.yaml") == load_settings(Path("conf") / "denograd.yaml") == loaded
    monkeypatch.chdir(tmp_path / "conf")
    assert load_settings("denograd.yaml") == loaded


def test_absolute_paths_and_addresses_stay(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = "dataset: set\ncolumns: {target: y}\nsource: %s\npublish: {root: %s}\ntracking: {uri: %s}\n"
    loaded = load(text % ("/in/data.csv", "s3://bucket/a/../b", "http://mlflow:5000"))
    assert (loaded.source, loaded.publish.root) == ("/in/data.csv", "s3://bucket/a/../b")
    assert loaded.tracking.uri == "http://mlflow:5000"
    assert load(text % ("~/data.csv", "file:///out", "sqlite:///m.db")).source == "/home/me/data.csv"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("a: [1\nb: 2\n", "expected ',' or ']'"),
        ("a:\n\t- b\n", "cannot start any token"),
        ("dataset: a\ndataset: b\n", "duplicate key"),
        ("dataset: a\n---\ndataset: b\n", "another document"),
        ("dataset: !mine x\n", "could not determine a constructor"),
        ("dataset: a\0b\n", "special characters"),
        ("dataset: 2024-02-31\n", "day"),
        ("dataset: " + "[" * 5000, "recursion"),
        ("seed: " + "9" * 5000 + "\n", "digits"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(load, tmp_path, content, found):
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load(content)
    assert found in caught.value.found
    assert str(tmp_path / "conf" / "denograd.yaml") in caught.value.where
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("content", ["", "# nothing\n", "- a\n- b\n", "just text\n", "null\n"])
def test_a_file_without_settings_is_refused(load, content):
    with pytest.raises(ConfigError, match="empty or not a mapping"):
        load(content)


@pytest.mark.parametrize("content", [bytes(range(256)), "dataset: a\n".encode("utf-16")], ids=["binary", "utf-16"])
def test_a_file_that_is_no_text_is_refused(load, content):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(content)
    assert caught.value.found == "no text in UTF-8"


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    for path, found in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            load_settings(path)
        assert found in caught.value.found
        assert caught.value.where == str(path)
        assert "denograd init" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "denograd.yaml"
    path.write_text("dataset: a\n")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(path)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system [touch {path}]",
        "!!python/object/new:os.system [touch {path}]",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_tags_that_name_code_are_refused_and_not_run(load, tmp_path, tag):
    proof = tmp_path / "proof"
    with pytest.raises(ConfigError, match="not valid YAML"):
        load("dataset: " + tag.format(path=proof))
    assert not proof.exists()


def test_aliases_that_multiply_are_refused_in_short(load):
    lines = [f"  - &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 30)]
    text = "source: s\ncolumns: {target: y}\ndataset:\n  - &l0 [x, x]\n" + "\n".join(lines)
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.problem == "dataset: this value cannot be used"
    assert len(str(caught.value)) < LONGEST_MESSAGE


def test_a_wrong_file_is_named(load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load("dataset: set\nsource: s\ncolumns: {target: y}\nrefine: {tau: x}\n")
    assert caught.value.where == str(tmp_path / "conf" / "denograd.yaml")


def test_yaml_words_and_numbers_keep_their_meaning(load):
    loaded = load(
        "dataset: no\nsource: 'on'\ncolumns: {target: yes}\nseed: 0o17\nrefine: {tau: 1e-3, deadline: null}\n"
    )
    assert (loaded.dataset, loaded.columns.target, loaded.seed) == ("no", ("yes",), 15)
    assert (loaded.refine.tau, loaded.refine.deadline) == (0.001, None)


def test_what_is_written_down_holds_no_credentials():
    given = settings(
        source="https://me:secret@host/data.csv",
        publish={"root": "s3://key:secret@bucket/prefix"},
        tracking={"uri": "http://me:secret@mlflow:5000"},
    )
    assert "secret" not in json.dumps(given.public())
    assert given.public()["tracking"]["uri"] == "http://mlflow:5000"


@pytest.mark.parametrize(
    ("interval", "seconds"), [(90, 90), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)]
)
def test_an_interval_is_in_seconds_or_in_its_unit(interval, seconds):
    schedule = settings(schedule={"interval": interval}).schedule.prefect()
    assert schedule.interval.total_seconds() == seconds
    assert schedule == settings(schedule={"interval": interval}).schedule.prefect()
