"""Pack the selected bundle and its ONNX variants into TorchServe archives, with model card and provenance."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.archive import build_archive
from stages.files import read_json, replacing, sha256, write_json
from stages.model_card import model_card
from stages.params import load
from stages.paths import METRICS, MODEL_STORE, ONNX, RAW, SELECTED
from stages.presets import PRESETS
from stages.stage import StageError, stage

# The code that ships is the code beside this module, wherever the stage is started.
PROJECT = Path(__file__).resolve().parents[1]
HANDLERS = PROJECT / "handlers"
MODEL_CONFIG = PROJECT / "serve" / "newsgroups.yaml"

# What every variant reads of the bundle, besides its weights.
BUNDLE = ("config.json", "cleaning.json", "tokenizer.json", "linear-terms.txt", "linear.safetensors", "fusion.json")
SHARED_MODULES = ("__init__.py", "fusion.py", "linear.py", "predictor.py", "requests.py", "text.py")
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnxruntime-gpu", "numpy")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """One archive: its entry module, what else it imports of the handlers, and the file that holds its weights."""

    entry: str
    modules: tuple[str, ...]
    weights: str


TORCH = Variant("newsgroups.py", ("config.py", "model.py", "torch_engine.py"), "model.safetensors")
# The ONNX entry derives from the other one, which therefore goes into the package too.
GRAPH = Variant("newsgroups_onnx.py", ("newsgroups.py", "onnx_engine.py"), "model.onnx")
VARIANTS = {"newsgroups": TORCH, "newsgroups-onnx": GRAPH, "newsgroups-onnx-int8": GRAPH}
OPTIONAL = ("newsgroups-onnx", "newsgroups-onnx-int8")


@dataclass(frozen=True)
class Facts:
    """What earlier stages wrote down: `source.json`, posts of each split, `quality.json`."""

    source: dict[str, Any]
    posts: dict[str, int]
    quality: dict[str, Any]

    @classmethod
    def read(cls, source: Path, counts: Path, quality: Path) -> Facts:
        """Raises StageError where a file is missing."""
        for path in (source, counts, quality):
            _require(path)
        return cls(read_json(source), read_json(counts)["posts"], read_json(quality))


def package(selected: Path, onnx: Path, facts: Facts, version: str, store: Path) -> dict[str, Any]:
    """Fill `store`, replacing what it held, with one archive a variant. Returns size and hash of each.

    selected: the bundle. onnx: a folder a variant with its graph. Raises StageError where a file is missing.
    """
    summary = {}
    with replacing(store) as folder:
        folder.mkdir()
        for name, variant in VARIANTS.items():
            weights = (selected if variant is TORCH else onnx / name) / variant.weights
            if name in OPTIONAL and not weights.parent.is_dir():
                log.info("%s is left out: the export stage did not accept it", name)
                continue
            archive = folder / f"{name}.mar"
            _pack(archive, variant, weights, selected, facts, version)
            summary[name] = {"size_mb": round(archive.stat().st_size / 1e6, 1), "sha256": sha256(archive)}
            log.info("%s: %.1f MB", name, summary[name]["size_mb"])
    return summary


def _pack(target: Path, variant: Variant, weights: Path, bundle: Path, facts: Facts, version: str) -> None:
    """One archive, with the two files that are written for it alone."""
    modules = {f"handlers/{module}": HANDLERS / module for module in (*SHARED_MODULES, *variant.modules)}
    model = {name: bundle / name for name in BUNDLE} | {variant.weights: weights}
    entry = HANDLERS / variant.entry
    for path in (*modules.values(), *model.values(), entry, MODEL_CONFIG):
        _require(path)
    provenance = {
        "data": facts.source,
        "model": {name: sha256(path) for name, path in sorted(model.items())},
        "code": {name: sha256(path) for name, path in sorted({**modules, entry.name: entry}.items())},
        "packages": {name: release(name) for name in PACKAGES},
    }
    labels = read_json(bundle / "config.json")["labels"]
    with tempfile.TemporaryDirectory() as folder:
        card, origin = Path(folder, "MODEL_CARD.md"), Path(folder, "provenance.json")
        encoder = PRESETS[facts.quality["selected"]["name"]]
        page = model_card(target.stem, version, labels, encoder, facts.source, facts.posts, facts.quality)
        card.write_text(page, encoding="utf-8")
        origin.write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        build_archive(target, version, entry, MODEL_CONFIG, modules | model | {card.name: card, origin.name: origin})


def release(name: str) -> str:
    """Version of an installed package, without the tag of its build: CPU and CUDA builds give the same archive."""
    return importlib.metadata.version(name).split("+")[0]


def _require(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path} is missing: run the stage that writes it, or simply dvc repro")


def main() -> None:
    """Entry of the stage."""
    with stage("package"):
        version = load().package.version
        facts = Facts.read(RAW / "source.json", METRICS / "data.json", METRICS / "quality.json")
        summary = package(SELECTED, ONNX, facts, version, MODEL_STORE)
        write_json(METRICS / "package.json", summary)


if __name__ == "__main__":
    main()
