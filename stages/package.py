"""Pack the selected bundle and its ONNX variants into TorchServe archives, with model card and provenance."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handlers.fusion import Fusion
from handlers.schema import PROVENANCE_FILE
from stages.archive import build_archive
from stages.files import read_json, replacing, sha256, write_json
from stages.model_card import NEWSGROUPS, corpus_name, model_card
from stages.params import Params, load
from stages.paths import METRICS, MODEL_STORE, ONNX, PROJECT, RAW, SELECTED
from stages.presets import PRESETS, Preset
from stages.stage import StageError, stage
from stages.variants import TORCH, VARIANTS, Variant

HANDLERS = PROJECT / "handlers"
MODEL_CONFIG = PROJECT / "serve" / "newsgroups.yaml"

LICENCES = PROJECT / "stages" / "licences"

# What every variant reads of the bundle, besides its weights.
BUNDLE = (
    "config.json",
    "cleaning.json",
    "drift.json",
    "tokenizer.json",
    "linear-terms.txt",
    "linear.safetensors",
    "fusion.json",
)
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnxruntime-gpu", "numpy")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What earlier stages wrote down (`source.json`, posts of each split, `quality.json`), and the parameters that
    shaped the model."""

    source: dict[str, Any]
    posts: dict[str, int]
    quality: dict[str, Any]
    params: dict[str, Any]

    @classmethod
    def read(cls, source: Path, counts: Path, quality: Path, params: dict[str, Any]) -> Facts:
        """Raises StageError where a file is missing."""
        for path in (source, counts, quality):
            _require(path)
        return cls(read_json(source), read_json(counts)["posts"], read_json(quality), params)


def package(selected: Path, onnx: Path, facts: Facts, version: str, store: Path) -> dict[str, Any]:
    """Fill `store`, replacing what it held, with one archive a variant. Returns size and hash of each.

    selected: the bundle. onnx: a folder a variant with its graph. Raises StageError where a file is missing.
    """
    summary = {}
    with replacing(store) as folder:
        folder.mkdir()
        for name, variant in VARIANTS.items():
            weights = (selected if name == TORCH else onnx / name) / variant.weights
            if name != TORCH and not weights.parent.is_dir():
                log.info("%s is left out: the export stage made none, or accepted none", name)
                continue
            archive = folder / f"{name}.mar"
            _pack(archive, variant, weights, selected, facts, version)
            summary[name] = {"size_mb": round(archive.stat().st_size / 1e6, 1), "sha256": sha256(archive)}
            log.info("%s: %.1f MB", name, summary[name]["size_mb"])
    return summary


def _pack(target: Path, variant: Variant, weights: Path, bundle: Path, facts: Facts, version: str) -> None:
    """One archive, with the files that are written for it alone."""
    modules = {f"handlers/{path.name}": path for path in sorted(HANDLERS.glob("*.py"))}
    model = {name: bundle / name for name in BUNDLE} | {variant.weights: weights}
    entry = HANDLERS / variant.entry
    for path in (*model.values(), entry, MODEL_CONFIG):
        _require(path)
    code = {**modules, entry.name: entry, MODEL_CONFIG.name: MODEL_CONFIG}
    provenance = {
        "data": facts.source,
        "params": facts.params,
        "model": {name: sha256(path) for name, path in sorted(model.items())},
        "code": {name: sha256(path) for name, path in sorted(code.items())},
        "packages": {name: release(name) for name in PACKAGES},
    }
    labels, fusion = read_json(bundle / "config.json")["labels"], Fusion.load(bundle)
    encoder = PRESETS[facts.quality["selected"]["name"]]
    card = model_card(target.stem, version, labels, encoder, fusion, facts.source, facts.posts, facts.quality)
    written = {
        "MODEL_CARD.md": card,
        "LICENCES.md": licences(encoder, facts.source, facts.params["augment"]["share"] > 0),
        PROVENANCE_FILE: json.dumps(provenance, indent=1, sort_keys=True) + "\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, name) for name in written}
        for name, text in written.items():
            files[name].write_text(text, encoding="utf-8")
        build_archive(target, version, entry, MODEL_CONFIG, modules | model | files)


def licences(encoder: Preset, source: dict[str, Any], augmented: bool) -> str:
    """Whose work an archive holds, and on which terms: Markdown, with the text of the checkpoint's licence.

    augmented: whether WordNet had a part in the training posts.
    """
    text = (LICENCES / f"{encoder.licence}.txt").read_text(encoding="utf-8")
    unlicensed = ", which states no licence of its own" if corpus_name(source["corpus"]) == NEWSGROUPS else ""
    wordnet = f"- Training posts were augmented with WordNet ({source['wordnet']['licence']}); nothing of it is here.\n"
    return f"""\
# Licences

- Transformer weights and tokenizer, fine-tuned here from `{encoder.repository}`: {encoder.licence}, its text below.
- The linear part was trained on {corpus_name(source["corpus"])}{unlicensed}; no post is here.
{wordnet * augmented}
## {encoder.licence}
{text}"""


def release(name: str) -> str:
    """Version of an installed package, without the tag of its build: CPU and CUDA builds give the same archive."""
    return importlib.metadata.version(name).split("+")[0]


def _require(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path} is missing: run the stage that writes it, or simply dvc repro")


def shaping(params: Params) -> dict[str, Any]:
    """The parameters that shape what is packed."""
    sections = ("data", "prepare", "augment", "wide", "train", "fuse", "export")
    chosen = {"seed": params.seed} | {name: asdict(getattr(params, name)) for name in sections}
    # Where the posts lie is one machine's business: what they are, `source.json` says by their hash.
    del chosen["data"]["path"]
    return chosen


def main() -> None:
    """Entry of the stage."""
    with stage("package"):
        params = load()
        facts = Facts.read(RAW / "source.json", METRICS / "data.json", METRICS / "quality.json", shaping(params))
        summary = package(SELECTED, ONNX, facts, params.package.version, MODEL_STORE)
        write_json(METRICS / "package.json", summary)


if __name__ == "__main__":
    main()
