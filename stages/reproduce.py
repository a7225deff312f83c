"""Build the archives of the current commit again, elsewhere, and hold their hashes against those that it records.

    python -m stages.reproduce                 # models from the DVC cache of this project, archives packed anew
    python -m stages.reproduce --from-scratch  # everything anew, as on a fresh machine

Exit status 0 where all hashes are the same, 1 where one differs. Not a stage: it changes no file of the project.
What comes out otherwise than it was recorded is added to the DVC cache, where that is used.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from stages.files import read_json, sha256
from stages.paths import METRICS, MODEL_STORE
from stages.stage import StageError

SUMMARY = METRICS / "package.json"
STORE = f"{MODEL_STORE} (dvc.lock)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="use nothing of the DVC cache")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
            clone = clone_commit(Path.cwd(), Path(folder, "clone"))
            committed = recorded(clone)
            rebuild(clone, None if options.from_scratch else cache_of(Path.cwd()))
            rebuilt = built(clone)
    except StageError as error:
        sys.exit(f"reproduce: {error}")
    print(table(committed, rebuilt))
    sys.exit(committed != rebuilt)


def clone_commit(project: Path, target: Path) -> Path:
    """Clone the commit that is checked out in `project`; changes that are not committed stay behind."""
    commit = run(project, "git", "rev-parse", "HEAD").strip()
    run(project, "git", "clone", "--quiet", "--no-checkout", str(project.resolve()), str(target))
    run(target, "git", "checkout", "--quiet", "--detach", commit)
    print(f"commit {commit}", flush=True)
    return target


def cache_of(project: Path) -> Path:
    """The folder of the DVC cache of `project`."""
    return (project / run(project, sys.executable, "-m", "dvc", "cache", "dir").strip()).resolve()


def rebuild(clone: Path, cache: Path | None) -> None:
    """Run the pipeline up to the archives in `clone`.

    cache: a DVC cache that holds what has been built before; what it lacks is built again. None for an empty one.
    """
    dvc = (sys.executable, "-m", "dvc")
    # Said in either case: what the user's own settings name may hold the archives already.
    run(clone, *dvc, "cache", "dir", "--local", str(cache or clone / ".dvc" / "cache"))
    if cache is None:
        run(clone, *dvc, "repro", "package", shown=True)
        return
    # The cache holds the archives too, so the second command packs them once more from the models.
    run(clone, *dvc, "repro", "package", shown=True)
    run(clone, *dvc, "repro", "--single-item", "--force", "package", shown=True)


def recorded(root: Path) -> dict[str, str]:
    """What `root` says of its archives: sha256 of each by name, and the MD5 of their folder. Raises StageError."""
    try:
        hashes = {name: archive["sha256"] for name, archive in read_json(root / SUMMARY).items()}
        outs = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]["package"]["outs"]
    except (FileNotFoundError, KeyError) as error:
        raise StageError(f"the commit records no archives ({error}): run dvc repro and commit what it wrote") from None
    return hashes | {STORE: next(out["md5"] for out in outs if out["path"] == MODEL_STORE.as_posix())}


def built(root: Path) -> dict[str, str]:
    """The same of the archives that lie in `root`, hashed here."""
    archives = sorted((root / MODEL_STORE).glob("*.mar"))
    return {archive.stem: sha256(archive) for archive in archives} | {STORE: recorded(root)[STORE]}


def table(committed: dict[str, str], rebuilt: dict[str, str]) -> str:
    """Both side by side, a line an archive, the verdict last."""
    names = sorted(committed.keys() | rebuilt.keys())
    lines = [f"{'':<32}{'recorded':<66}{'rebuilt':<66}"]
    for name in names:
        before, after = committed.get(name, "-"), rebuilt.get(name, "-")
        lines.append(f"{name:<32}{before:<66}{after:<66}{'same' if before == after else 'DIFFERENT'}")
    return "\n".join(lines)


def run(folder: Path, *command: str, shown: bool = False) -> str:
    """Run a command in `folder`; what it printed, or nothing where that is shown. Raises StageError where it fails."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # A clone runs its own code only.
    environment.pop("PYTHONPATH", None)
    pipe = None if shown else subprocess.PIPE
    done = subprocess.run(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, check=False)
    if done.returncode:
        said = "" if shown else f": {' '.join(done.stderr.split()[-40:])}"
        raise StageError(f"{' '.join(command)} failed{said}")
    return done.stdout or ""


if __name__ == "__main__":
    main()
