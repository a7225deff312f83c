"""dvc.yaml against the code: what a stage imports and reads is what DVC watches."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FIRST_PARTY = ("handlers", "stages")
# Folders that a stage uses whole without importing them: what it puts into an archive or starts as a process.
USED_WHOLE = {"package": ["handlers"], "benchmark": ["loadtest", "serve"]}


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
    whole = tuple(f"{folder}/" for folder in USED_WHOLE.get(name, []))
    needed = {path for path in needed if not path.startswith(whole)}
    assert set(USED_WHOLE.get(name, [])) <= deps
    code = {dep for dep in deps if dep.endswith(".py")}
    assert code == needed


def attributes_read(path: Path) -> set[str]:
    """Dotted parameters that a module's `main` reads from `params`, aliases such as `settings = params.train` too."""
    text = path.read_text(encoding="utf-8")
    aliases = dict(re.findall(r"(\w+) = params\.(\w+)\n", text))
    read = set(re.findall(r"\bparams\.(\w+(?:\.\w+)?)", text))
    read |= {f"{aliases[name]}.{key}" for name, key in re.findall(r"\b(\w+)\.(\w+)", text) if name in aliases}
    return read


@pytest.mark.parametrize("name", STAGES)
def test_params_cover_what_the_stage_reads(name: str) -> None:
    listed = set(STAGES[name]["params"])
    for key in attributes_read(ROOT / "stages" / f"{name}.py"):
        covered = {key, key.split(".")[0]} & listed or any(item.startswith(f"{key}.") for item in listed)
        assert covered, f"{name} reads {key}, which dvc.yaml does not list"


def test_imports_point_one_way() -> None:
    for path in (ROOT / "handlers").glob("*.py"):
        assert "stages" not in re.findall(r"^(?:from|import) (\w+)", path.read_text(), flags=re.M), path
    for path in (ROOT / "loadtest").glob("*.py"):
        roots = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.M))
        assert not roots & {"stages", "handlers", "serve"}, path
