"""Pack the selected bundle and its ONNX variants into TorchServe archives, with model card and provenance."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from handlers.config import CONFIG_FILE, ModelConfig
from handlers.drift import DRIFT_FILE
from handlers.fusion import FUSION_FILE, Fusion
from handlers.linear import TERMS_FILE, WEIGHTS_FILE
from handlers.requests import MAX_POSTS, most_passes
from handlers.schema import CALIBRATION_FILE, PROVENANCE_FILE
from handlers.text import CLEANING_FILE, TOKENIZER_FILE
from stages.archive import build_archive
from stages.calibration import calibration
from stages.corpus import load_split
from stages.files import replacing, sha256, write_json
from stages.inputs import read_earlier, require, selected_name
from stages.model_card import corpus_name, is_public, model_card
from stages.params import Params, load
from stages.paths import EVALUATION, METRICS, MODEL_STORE, ONNX, PROJECT, RAW, SELECTED
from stages.presets import PRESETS, Preset
from stages.stage import stage
from stages.variants import TORCH, VARIANTS, Variant

HANDLERS = PROJECT / "handlers"
MODEL_CONFIG = PROJECT / "serve" / "newsgroups.yaml"

LICENCES = PROJECT / "stages" / "licences"

# What every variant reads of the bundle, besides its weights.
BUNDLE = (
    CONFIG_FILE,
    CLEANING_FILE,
    DRIFT_FILE,
    TOKENIZER_FILE,
    TERMS_FILE,
    WEIGHTS_FILE,
    FUSION_FILE,
)
# What made the weights, and what runs them.
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "numpy",
)
# Of a row of `export.json`: what the same graph always scores. Times and memory differ from one run to the next.
SCORES = ("accuracy", "macro_f1", "agreement")
# The transformer, and its window, with which the responseTimeout of serve/newsgroups.yaml was found.
TIMED = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}, 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What earlier stages wrote down: `source.json`, posts of each split, `quality.json`, SCORES of each variant,
    `calibration` of the PyTorch one on test; and the parameters that shaped the model."""

    source: dict[str, Any]
    posts: dict[str, int]
    quality: dict[str, Any]
    variants: dict[str, dict[str, float]]
    calibration: dict[str, Any]
    params: dict[str, Any]

    @classmethod
    def read(cls, raw: Path, metrics: Path, evaluation: Path, params: dict[str, Any]) -> Facts:
        """raw, metrics, evaluation: the folders of `source.json`, of the metrics and of what each candidate answered.

        Raises StageError where a file is missing.
        """
        quality = read_earlier(metrics / "quality.json")
        name = quality["selected"]["name"]
        exported = read_earlier(metrics / "export.json")
        shipped = read_earlier(metrics / "candidates" / f"{name}.json")["test"]["shipped"]
        return cls(
            source=read_earlier(raw / "source.json"),
            posts=read_earlier(metrics / "data.json")["posts"],
            quality=quality,
            variants={variant: {key: row[key] for key in SCORES} for variant, row in exported.items()},
            calibration=calibration(shipped, load_split(evaluation / name, "test")),
            params=params,
        )


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
        require(path)
    shape, fusion = ModelConfig.load(bundle), Fusion.load(bundle)
    encoder = PRESETS[facts.quality["selected"]["name"]]
    worth = {"variant": TORCH, "split": "test", "threshold": fusion.reject, **facts.calibration}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, MODEL_CONFIG.name)
        config.write_text(patient(MODEL_CONFIG.read_text(encoding="utf-8"), shape), encoding="utf-8")
        code = {**modules, entry.name: entry, config.name: config}
        provenance = {
            "data": facts.source,
            "params": facts.params,
            "model": {name: sha256(path) for name, path in sorted(model.items())},
            "code": {name: sha256(path) for name, path in sorted(code.items())},
            "packages": {name: release(name) for name in PACKAGES},
        }
        written = {
            "MODEL_CARD.md": model_card(
                target.stem,
                version,
                shape.labels,
                encoder,
                fusion,
                facts.source,
                facts.posts,
                facts.quality,
                facts.variants[target.stem],
                worth,
            ),
            "LICENCES.md": licences(encoder, facts.source, facts.params["augment"]["share"] > 0),
            CALIBRATION_FILE: json.dumps(worth, indent=1) + "\n",
            PROVENANCE_FILE: json.dumps(provenance, indent=1, sort_keys=True) + "\n",
        }
        files = {name: Path(folder, name) for name in written}
        for name, text in written.items():
            files[name].write_text(text, encoding="utf-8")
        build_archive(target, version, entry, config, modules | model | files)


def patient(config: str, shape: ModelConfig) -> str:
    """The model's YAML with a responseTimeout as much longer as the largest batch of a transformer of that shape takes
    longer than that of TIMED, never shorter."""
    factor = max(1.0, largest_batch(shape.encoder, shape.max_tokens) / largest_batch(*TIMED))
    return re.sub(
        r"(?m)^responseTimeout: (\d+)$", lambda found: f"responseTimeout: {math.ceil(int(found[1]) * factor)}", config
    )


def largest_batch(encoder: dict[str, Any], max_tokens: int) -> int:
    """Multiplications, but for a factor, in the passes of the largest batch that the handler's limits let through."""
    layers, width, inner = (encoder[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    # Of a token in a layer: attention's four square matrices, the two around the inner layer, all tokens seen twice.
    token = 4 * width**2 + 2 * width * inner + 2 * width * max_tokens
    return (most_passes(max_tokens) + MAX_POSTS) * max_tokens * layers * token


def licences(encoder: Preset, source: dict[str, Any], augmented: bool) -> str:
    """Whose work an archive holds, and on which terms: Markdown, with the text of the checkpoint's licence.

    augmented: whether WordNet had a part in the training posts.
    """
    text = (LICENCES / f"{encoder.licence}.txt").read_text(encoding="utf-8")
    unlicensed = ", which states no licence of its own" if is_public(source["corpus"]) else ""
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


def shaping(params: Params, candidate: str) -> dict[str, Any]:
    """The parameters that shape what is packed: of the candidate that ships, its own."""
    sections = ("data", "prepare", "augment", "wide", "train", "fuse", "export")
    chosen = {"seed": params.seed} | {name: asdict(getattr(params, name)) for name in sections}
    chosen["train"] = params.train.of(candidate).alone()
    # Where the posts lie is one machine's business: what they are, `source.json` says by their hash.
    del chosen["data"]["path"]
    return chosen


def main() -> None:
    """Entry of the stage."""
    with stage("package"):
        params = load()
        facts = Facts.read(RAW, METRICS, EVALUATION, shaping(params, selected_name(SELECTED)))
        summary = package(SELECTED, ONNX, facts, params.package.version, MODEL_STORE)
        write_json(METRICS / "package.json", summary)


if __name__ == "__main__":
    main()
