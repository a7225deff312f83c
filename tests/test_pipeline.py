"""dvc.yaml against the code: what a stage imports and reads is what DVC watches."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from stages import ablation, tune
from stages.package import shaping
from stages.params import Params, load

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FIRST_PARTY = ("handlers", "loadtest", "stages")
# What a stage uses without importing it: what it puts into an archive, starts as a process or reads of the user's own.
USED = {
    "check": ["params.yaml"],
    "fetch": ["${data.path}"],
    "package": ["handlers", "serve/newsgroups.yaml", "stages/licences"],
    "benchmark": [
        "loadtest",
        "serve/config.properties",
        "serve/java.py",
        "serve/log4j2.xml",
        "serve/metrics.yaml",
        "serve/ready.py",
    ],
}

# What no figure of the ablation and of tuning hangs on: settings and posts, which their fingerprints have themselves;
# reading, writing, pages and pictures; memory, cores and how a run is framed.
NO_FIGURE = {
    "handlers/config.py",
    "handlers/cores.py",
    "handlers/memory.py",
    "stages/ablation_plot.py",
    "stages/cells.py",
    "stages/checkpoint.py",
    "stages/corpus.py",
    "stages/download.py",
    "stages/figures.py",
    "stages/files.py",
    "stages/html.py",
    "stages/inputs.py",
    "stages/interruption.py",
    "stages/intervals.py",
    "stages/memory_watch.py",
    "stages/metrics.py",
    "stages/own_corpus.py",
    "stages/params.py",
    "stages/paths.py",
    "stages/presets.py",
    "stages/stage.py",
    "stages/tuning_report.py",
}


def imported(path: Path) -> set[Path]:
    """The first-party modules that a module imports, itself and indirectly, packages' own files included."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                target = ROOT / (name.replace(".", "/") + ".py")
                if name.split(".")[0] in FIRST_PARTY and target.is_file():
                    waiting.append(target)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_import_graph(name: str) -> None:
    stage = STAGES[name]
    deps = set(stage["deps"])
    entry = ROOT / "stages" / f"{name}.py"
    assert f"python -m stages.{name}" in stage["cmd"]
    needed = {path.relative_to(ROOT).as_posix() for path in imported(entry)}
    used = USED.get(name, [])
    needed = {path for path in needed if not path.startswith(tuple(f"{folder}/" for folder in used))} | {*used}
    assert {dep for dep in deps if not dep.startswith("outputs/")} == needed


@pytest.mark.parametrize("module", [ablation, tune], ids=["ablation", "tune"])
def test_figures_are_kept_for_all_the_code_that_decides_them(module: ModuleType) -> None:
    entry = Path(module.__file__)
    needed = {path.relative_to(ROOT).as_posix() for path in imported(entry) - {entry}}
    assert set(module.CODE) == needed - NO_FIGURE


def test_another_candidate_does_not_train_the_others_anew() -> None:
    deps = [dep for dep in STAGES["train"]["deps"] if dep.startswith("outputs/models/pretrained")]
    assert deps == ["outputs/models/pretrained/${item.candidate}"]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain that starts at a name, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{start}.{node.attr}" if (start := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def parameters_read(path: Path) -> set[str]:
    """Parameters that a module reads from `params`, through aliases such as `settings = params.train` too: with a dot
    one of a section, without one the seed or a whole section, handed on to others."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    alias = {node.targets[0].id: dotted(node.value) for node in assigned}
    # A section is not handed on where only one of its keys is taken, or where it gets another name.
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute | ast.Assign)}
    read = {dotted(node) for node in nodes if isinstance(node, ast.Attribute) and id(node) not in inner}
    names = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    read |= {node.id for node in names if id(node) not in inner}
    split = (key.partition(".") for key in read)
    read |= {f"{alias[name]}{dot}{rest}" for name, dot, rest in split if alias.get(name)}
    return {".".join(key.split(".")[1:3]) for key in read if key.startswith("params.")}


SECTIONS = {name: kind for name, kind in typing.get_type_hints(Params).items() if dataclasses.is_dataclass(kind)}
# Each candidate has a stage of its own, whose result hangs on no other candidate; posts are left out later.
NOT_READ = {"train": {"train.candidates"}, "fetch": {"data.limit"}}


@pytest.mark.parametrize("name", [name for name in STAGES if "params.yaml" not in STAGES[name]["deps"]])
def test_params_cover_what_the_stage_reads(name: str) -> None:
    listed = set(STAGES[name].get("params", []))
    for key in parameters_read(ROOT / "stages" / f"{name}.py"):
        section = key.split(".")[0]
        whole = {f"{key}.{field.name}" for field in dataclasses.fields(SECTIONS[key])} if key in SECTIONS else {key}
        missing = whole - listed - NOT_READ.get(name, set())
        assert section in listed or not missing, f"{name} reads {sorted(missing)}, which dvc.yaml does not list"


@pytest.mark.parametrize("name", STAGES)
def test_params_are_those_that_the_stage_reads(name: str) -> None:
    read = parameters_read(ROOT / "stages" / f"{name}.py")
    if name == "package":
        read |= shaping(load(ROOT / "params.yaml"), "minilm").keys()
    for key in STAGES[name].get("params", []):
        # A section counts as read where one of its keys is, a key where its section is handed on.
        assert key.split(".")[0] in read or any(f"{one}.".startswith(f"{key}.") for one in read), key


def test_a_section_that_is_handed_on_is_told_from_a_key_of_it(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "knobs = params.train\nother = params.fuse\nuse(params.seed, params.data.limit, knobs.lr, other)\n"
    )
    assert parameters_read(module) == {"seed", "data.limit", "train.lr", "fuse"}


def test_imports_point_one_way() -> None:
    for path in (ROOT / "handlers").glob("*.py"):
        assert "stages" not in re.findall(r"^(?:from|import) (\w+)", path.read_text(), flags=re.M), path
    for path in (ROOT / "loadtest").glob("*.py"):
        roots = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.M))
        assert not roots & {"stages", "handlers", "serve"}, path
