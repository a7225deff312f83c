"""params.yaml: what is allowed passes, what is not stops the run with one line that says what is allowed."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.params import Params, ParamsError, load

FILE = Path(__file__).parents[1] / "params.yaml"
DOCUMENT = yaml.safe_load(FILE.read_text(encoding="utf-8"))
KEYS = [
    f"{section}.{key}" if isinstance(values, dict) else section
    for section, values in DOCUMENT.items()
    for key in (values if isinstance(values, dict) else [""])
]
MISSING = object()


def with_value(dotted: str, value: Any) -> dict[str, Any]:
    """The project's parameters with one value changed, or left out where it is MISSING."""
    document = copy.deepcopy(DOCUMENT)
    *sections, key = dotted.split(".")
    place = document
    for section in sections:
        place = place[section]
    if value is MISSING:
        del place[key]
    else:
        place[key] = value
    return document


def load_document(document: Any, folder: Path) -> Params:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return load(path)


def error_of(document: Any, folder: Path) -> str:
    with pytest.raises(ParamsError) as caught:
        load_document(document, folder)
    message = str(caught.value)
    assert "\n" not in message, "one line"
    return message


def test_the_projects_own_file_loads() -> None:
    params = load(FILE)
    assert params.seed == DOCUMENT["seed"]
    plain = dataclasses.asdict(params)
    assert plain["train"]["candidates"] == tuple(DOCUMENT["train"]["candidates"])
    assert plain["augment"] == DOCUMENT["augment"]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    assert f"lacks the key '{key.rpartition('.')[2]}'" in error_of(with_value(key, MISSING), tmp_path)


@pytest.mark.parametrize(("section", "known"), [("", "seed, data, prepare"), ("train.", "candidates, max_tokens")])
def test_an_unknown_key_is_named_beside_the_known(section: str, known: str, tmp_path: Path) -> None:
    message = error_of(with_value(f"{section}learning_rate", 1), tmp_path)
    assert "'learning_rate'" in message
    assert known in message


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", -1, "0 to 2147483647"),
        pytest.param("seed", 2**32 - 1, "0 to 2147483647", id="no room for the seeds that are counted on from it"),
        ("seed", 1.5, "int"),
        ("seed", True, "int"),
        ("data.source", "internet", "auto, sklearn, pypi, files"),
        ("data.path", "", "file or a folder"),
        ("data.test", 0, "0.01 to 0.5"),
        ("data.limit", "40", "int 0 to"),
        ("data.remove", ["headers", "headers"], "without repetitions"),
        ("train.head", [64, 0], "1 to 8192"),
        ("data.remove", "headers", "list"),
        ("data.remove", ["signatures"], "headers, footers, quotes"),
        ("prepare.stem", "yes", "true or false"),
        ("prepare.stem", 1, "true or false"),
        ("augment.share", 1.1, "0 to 1"),
        ("augment.share", float("nan"), "0 to 1"),
        ("augment.share", None, "0 to 1"),
        ("augment.share", [0.1], "0 to 1"),
        pytest.param("augment.share", 10**400, "0 to 1", id="too large for a float"),
        ("augment.deletion_rate", 1, "0 to 0.9"),
        ("train.candidates", ["minilm", "gpt"], "minilm, mpnet, bert, roberta"),
        ("train.candidates", [], "minilm, mpnet, bert, roberta"),
        ("train.candidates", [["minilm"]], "minilm, mpnet, bert, roberta"),
        ("train.head", [384, 384.5], "int"),
        ("train.lr", "fast", "float"),
        ("train.lr", "1e3", "float"),
        ("train.lr", float("inf"), "float"),
        ("train.lr", "inf", "float"),
        ("augment.share", "nan", "0 to 1"),
        ("train.pooling", "max", "cls, mean, attention"),
        ("package.version", 1.0, "str"),
        ("package.version", "", "digits, letters, dots, dashes and underscores"),
        ("package.version", "a b/c", "digits, letters, dots, dashes and underscores"),
        ("package.version", "1.0\n", "digits, letters, dots, dashes and underscores"),
        pytest.param("package.version", "-1", "beginning with a digit or a letter", id="an option to the archiver"),
        ("package.version", "..", "beginning with a digit or a letter"),
        ("package.version", "1.é", "digits, letters, dots, dashes and underscores"),
        pytest.param("benchmark.least_seconds", 30, "at most benchmark.most_seconds, 9", id="longer than it may take"),
        ("export.opset", 17, "allowed: int 18 to 23"),
        ("benchmark.most_seconds", 2, "benchmark.least_seconds is 7; allowed: at most"),
        ("train.overrides", [], "mapping of names"),
        ("train.overrides", {"gpt": {}}, "minilm, mpnet, bert, roberta"),
        ("train.overrides", {"mpnet": 5}, "mapping of keys"),
        ("train.overrides", {"mpnet": {"rate": 1}}, "train.overrides.mpnet has no key 'rate'"),
        ("train.overrides", {"mpnet": {"lr": 2}}, "train.overrides.mpnet.lr is 2; allowed"),
        ("train.overrides", {"mpnet": {"max_tokens": 64}}, "'max_tokens', which is the same for all"),
        ("export", None, "mapping"),
        ("export", [1], "mapping"),
    ],
)
def test_an_impossible_value_names_the_key_and_what_is_allowed(
    key: str, value: Any, allowed: str, tmp_path: Path
) -> None:
    message = error_of(with_value(key, value), tmp_path)
    assert key in message
    assert allowed in message


@pytest.mark.parametrize("version", ["1.0", "2", "v1.2-rc_3"])
def test_a_version_as_people_write_it(version: str, tmp_path: Path) -> None:
    assert load_document(with_value("package.version", version), tmp_path).package.version == version


def test_two_keys_that_bound_each_other_may_be_equal(tmp_path: Path) -> None:
    assert DOCUMENT["benchmark"]["most_seconds"] == 9
    assert load_document(with_value("benchmark.least_seconds", 9), tmp_path).benchmark.least_seconds == 9


def test_two_layers_may_have_one_width(tmp_path: Path) -> None:
    assert load_document(with_value("train.head", [64, 64]), tmp_path).train.head == (64, 64)


def test_whole_numbers_may_stand_for_floats(tmp_path: Path) -> None:
    params = load_document(with_value("augment.share", 1), tmp_path)
    assert params.augment.share == 1.0
    assert isinstance(params.augment.share, float)


def test_a_number_without_a_point_before_its_exponent_is_one(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text(encoding="utf-8").replace("lr: 2.0e-4", "lr: 2e-4"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["train"]["lr"] == "2e-4", "or the test could not fail"
    assert load(path).train.lr == 2e-4


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_file_that_is_no_mapping_is_refused(document: Any, tmp_path: Path) -> None:
    assert "must be a mapping" in error_of(document, tmp_path)


@pytest.mark.parametrize(
    "content", [b"seed: [1\ntrain: {", b"a: b: c\n", b"seed: \x00\n", b"seed: \xff\xfe\n", b"seed: 2025-06-31\n"]
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="project's root"):
        load(tmp_path / "params.yaml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.sampled_from(KEYS), SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS))
def test_any_value_loads_or_gives_one_line_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    try:
        load_document(with_value(key, value), tmp_path)
    except ParamsError as error:
        assert re.fullmatch(rf"params\.yaml: .*{re.escape(key)}.*", str(error))


def test_a_candidate_has_what_is_common_but_for_its_own(tmp_path: Path) -> None:
    train = load_document(with_value("train.overrides", {"mpnet": {"lr": 3.0e-5, "epochs": 5}}), tmp_path).train
    assert train.of("minilm") is train
    own = train.of("mpnet")
    assert (own.lr, own.epochs, own.head, own.overrides) == (3e-5, 5, train.head, {})
    assert own.alone() == train.alone() | {"lr": 3e-5, "epochs": 5}
    assert train.alone().keys() == DOCUMENT["train"].keys() - {"candidates", "overrides"}


def test_stems_are_not_augmented(tmp_path: Path) -> None:
    document = with_value("augment.share", 0.5)
    load_document(document, tmp_path)
    document["prepare"]["stem"] = True
    assert "augment.share and prepare.stem exclude each other" in error_of(document, tmp_path)
