"""The only reader of params.yaml: one frozen, validated dataclass per section; an unknown key is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from handlers.config import ACTIVATIONS, POOLINGS
from stages.presets import PRESETS
from stages.stage import StageError

SOURCES = ("auto", "sklearn", "pypi", "files")
REMOVABLE = ("headers", "footers", "quotes")
SPLITS = ("random", "late", "duplicates", "thread")
IMPORTANCES = ("tfidf", "gradient")
PRECISIONS = ("auto", "float32", "bf16", "fp16")
SCHEDULES = ("linear", "cosine")
# Keys of the section train that no candidate has of its own: the posts are described by one length for all.
COMMON = ("candidates", "max_tokens", "overrides")
# It is an argument of the archiver, goes into the manifest, and may become a part of a file's name.
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


class ParamsError(StageError):
    """A key or value in params.yaml that cannot be used; the message names the key and what is allowed."""


def one_of(*allowed: str, members: int = 0) -> Any:
    """A field, or each member of a tuple field of at least `members`, that takes one of the given values."""
    return _checked(lambda value: value in allowed, "one of " + ", ".join(allowed), members)


def between(low: float, high: float, members: int = 0, at_most: str | None = None) -> Any:
    """A number field, or each member of a tuple field of at least `members`, with both bounds included.

    at_most: another key of the section, whose value this one may not exceed.
    """
    allowed = f"{low} to {high}" + (f", at most {at_most}" if at_most else "")
    return _checked(lambda value: low <= value <= high, allowed, members, at_most)


def _checked(test: Callable[[Any], Any], allowed: str, members: int = 0, at_most: str | None = None) -> Any:
    metadata = {"test": test, "allowed": allowed, "members": members, "at_most": at_most}
    return dataclasses.field(metadata=metadata)


@dataclass(frozen=True)
class Data:
    source: str = one_of(*SOURCES)
    path: str = _checked(bool, "the name of a file or a folder")
    test: float = between(0.01, 0.5)
    remove: tuple[str, ...] = one_of(*REMOVABLE)
    limit: int = between(0, 100_000)


@dataclass(frozen=True)
class Prepare:
    split: str = one_of(*SPLITS)
    validation: float = between(0.01, 0.5)
    letters_only: bool
    stop_words: bool
    stem: bool


@dataclass(frozen=True)
class Augment:
    share: float = between(0, 1)
    copies: int = between(1, 20)
    synonym_rate: float = between(0, 1)
    deletion_rate: float = between(0, 0.9)
    importance: str = one_of(*IMPORTANCES)


@dataclass(frozen=True)
class Baseline:
    ngrams: int = between(1, 3)
    min_df: int = between(1, 1000)
    max_terms: int = between(100, 10_000_000)
    c: float = between(1e-4, 1e4)


@dataclass(frozen=True)
class Wide:
    ngrams: int = between(1, 3)
    min_df: int = between(1, 1000)
    max_terms: int = between(100, 10_000_000)
    smoothing: float = between(1e-3, 1e3)
    c: float = between(1e-4, 1e4)


@dataclass(frozen=True)
class Train:
    candidates: tuple[str, ...] = one_of(*PRESETS, members=1)
    max_tokens: int = between(8, 512)
    pooling: str = one_of(*POOLINGS)
    head: tuple[int, ...] = between(1, 8192)
    head_norm: bool
    activation: str = one_of(*ACTIVATIONS)
    dropout: float = between(0, 0.9)
    encoder_dropout: float = between(0, 0.9)
    epochs: int = between(1, 100)
    batch_size: int = between(1, 4096)
    accumulation: int = between(1, 4096)
    lr: float = between(1e-7, 1e-1)
    weight_decay: float = between(0, 1)
    schedule: str = one_of(*SCHEDULES)
    warmup: float = between(0, 1)
    class_weights: bool
    label_smoothing: float = between(0, 0.5)
    clip_norm: float = between(1e-3, 1e3)
    probe_epochs: int = between(0, 1000)
    evaluations: int = between(1, 100)
    patience: int = between(1, 1000)
    precision: str = one_of(*PRECISIONS)
    # By candidate: this section, with values of the candidate's own in place of the common ones.
    overrides: Mapping[str, Train] = one_of(*PRESETS)

    def of(self, candidate: str) -> Train:
        """The settings of one candidate."""
        return self.overrides.get(candidate, self)

    def alone(self) -> dict[str, Any]:
        """By name, the settings on which one candidate's training hangs: all but those that speak of candidates."""
        settings = dataclasses.asdict(self)
        return {key: value for key, value in settings.items() if key not in ("candidates", "overrides")}


@dataclass(frozen=True)
class Fuse:
    enabled: bool
    tolerance: float = between(0, 1)
    precision: float = between(0, 1)


@dataclass(frozen=True)
class Behaviour:
    posts: int = between(1, 100_000)


@dataclass(frozen=True)
class Explain:
    posts: int = between(1, 1000)
    shown: int = between(0, 100)
    samples: int = between(20, 100_000)
    steps: int = between(2, 1000)
    top: int = between(1, 100)


@dataclass(frozen=True)
class Export:
    # Converted to an older one, a graph forgets which layer each operator came from.
    opset: int = between(18, 23)
    tolerance: float = between(1e-7, 1)
    float32_agreement: float = between(0, 1)
    reduced_agreement: float = between(0, 1)
    reduced_f1_loss: float = between(-1, 1)
    calibration: int = between(1, 1_000_000)
    posts: int = between(1, 1_000_000)


@dataclass(frozen=True)
class Package:
    version: str = _checked(
        VERSION.fullmatch, "of digits, letters, dots, dashes and underscores, beginning with a digit or a letter"
    )


@dataclass(frozen=True)
class Benchmark:
    slo_ms: float = between(1, 60_000)
    requests: int = between(20, 1_000_000)
    warmup: int = between(1, 1_000_000)
    steps: int = between(1, 20)
    least_seconds: float = between(0, 600, at_most="most_seconds")
    most_seconds: float = between(1, 600)
    rounds: int = between(1, 20)
    minutes: float = between(0, 600)
    users: tuple[int, ...] = between(1, 1000, members=1)


@dataclass(frozen=True)
class Params:
    """All of params.yaml. `seed` goes into every generator of the build."""

    # Some are counted on from it, and a generator takes no more than 2**32 - 1.
    seed: int = between(0, 2**31 - 1)
    data: Data
    prepare: Prepare
    augment: Augment
    baseline: Baseline
    wide: Wide
    train: Train
    fuse: Fuse
    behaviour: Behaviour
    explain: Explain
    export: Export
    package: Package
    benchmark: Benchmark


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises ParamsError, in one line, for a missing file, bad YAML, an unknown or missing key, or an impossible value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run the stages from the project's root") from None
    # Also bytes that are no UTF-8, and a date that does not exist.
    except (yaml.YAMLError, ValueError) as error:
        raise ParamsError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    params = _build(Params, document, "")
    if params.augment.share and params.prepare.stem:
        raise ParamsError(
            "params.yaml: augment.share and prepare.stem exclude each other, since synonyms are found and written as "
            "whole words; allowed: augment.share 0, or prepare.stem false"
        )
    return params


def _build(section: type, values: Any, name: str) -> Any:
    """One dataclass from one mapping; `name` is its dotted path, empty for the whole file."""
    where = f"params.yaml: {name or 'the file'}"
    if not isinstance(values, dict):
        raise ParamsError(f"{where} must be a mapping of keys, not {values!r}")
    hints = typing.get_type_hints(section)
    fields = {field.name: field for field in dataclasses.fields(section)}
    if unknown := sorted(map(str, values.keys() - fields.keys())):
        raise ParamsError(f"{where} has no key {unknown[0]!r}; its keys are {', '.join(fields)}")
    if missing := sorted(fields.keys() - values.keys()):
        raise ParamsError(f"{where} lacks the key {missing[0]!r}")
    prefix = f"{name}." if name else ""
    built = section(**{key: _field(section, field, hints[key], values, prefix) for key, field in fields.items()})
    for key, field in fields.items():
        if other := field.metadata.get("at_most"):
            value, most = getattr(built, key), getattr(built, other)
            if value > most:
                raise ParamsError(
                    f"params.yaml: {prefix}{key} is {value:g}; allowed: at most {prefix}{other}, {most:g}"
                )
    return built


def _field(section: type, field: dataclasses.Field[Any], kind: Any, values: dict[str, Any], prefix: str) -> Any:
    name, value = prefix + field.name, values[field.name]
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, name)
    if typing.get_origin(kind) is Mapping:
        return _overrides(section, field, values, name)
    return _value(field, kind, value, name)


def _overrides(section: type, field: dataclasses.Field[Any], values: dict[str, Any], name: str) -> dict[str, Any]:
    """By name, the section with a few values in place of its own."""
    if not isinstance(values[field.name], dict):
        raise ParamsError(f"params.yaml: {name} must be a mapping of names, not {values[field.name]!r}")
    built = {}
    for one, own in values[field.name].items():
        if not field.metadata["test"](one):
            raise ParamsError(f"params.yaml: {name} has the name {one!r}; allowed: {field.metadata['allowed']}")
        if not isinstance(own, dict):
            raise ParamsError(f"params.yaml: {name}.{one} must be a mapping of keys, not {own!r}")
        if common := sorted(own.keys() & set(COMMON)):
            raise ParamsError(f"params.yaml: {name}.{one} has {common[0]!r}, which is the same for all")
        built[one] = _build(section, values | own | {field.name: {}}, f"{name}.{one}")
    return built


def _value(field: dataclasses.Field[Any], kind: Any, value: Any, name: str) -> Any:
    """One value, or the tuple of a list's members, of the field's type and within its bounds."""
    if typing.get_origin(kind) is not tuple:
        return _member(field, kind, value, name)
    member_kind = typing.get_args(kind)[0]
    if not isinstance(value, list):
        raise ParamsError(f"params.yaml: {name} must be a list, not {value!r}")
    # A number may come twice: two layers of one width.
    if member_kind is str and len({str(member) for member in value}) != len(value):
        raise ParamsError(f"params.yaml: {name} must be a list without repetitions, not {value!r}")
    if len(value) < field.metadata["members"]:
        raise ParamsError(f"params.yaml: {name} is empty; allowed: {field.metadata['allowed']}")
    return tuple(_member(field, member_kind, member, name) for member in value)


def _member(field: dataclasses.Field[Any], kind: type, value: Any, name: str) -> Any:
    if kind is float and type(value) is str:
        # 2e-4, without a point, is a number to DVC and text to PyYAML.
        with contextlib.suppress(ValueError):
            value = float(value)
    # YAML writes 1 for 1.0; and a bool is an int to Python, but not to us.
    right = type(value) is kind or (kind is float and type(value) is int)
    test = field.metadata.get("test")
    if not right or (test and not test(value)):
        allowed = "true or false" if kind is bool else f"{kind.__name__} {field.metadata.get('allowed', '')}".strip()
        raise ParamsError(f"params.yaml: {name} is {value!r}; allowed: {allowed}")
    return kind(value)
