"""Stage `train`: fine-tune one pre-trained encoder with pooling and a dense head. `python -m stages.train minilm`"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel

from handlers.config import ModelConfig
from handlers.model import Classifier, pooler_off
from handlers.text import TOKENIZER_FILE, Encoder
from stages.corpus import label_names, load_split
from stages.files import remove, replacing, write_csv, write_json
from stages.hardware import choose_device, choose_precision
from stages.params import Train, load
from stages.paths import AUGMENTED, CHECKPOINTS, DEEP, METRICS, PLOTS, PREPARED, PRETRAINED
from stages.stage import StageError, stage
from stages.training import Split, Trainer

log = logging.getLogger(__name__)


def build(pretrained: Path, labels: list[str], settings: Train, seed: int) -> Classifier:
    """A classifier with pre-trained encoder and fresh head, the same for the same seed."""
    if not (pretrained / "model.safetensors").is_file():
        raise StageError(f"{pretrained} has no checkpoint: run the fetch stage with this candidate")
    encoder_config = AutoConfig.from_pretrained(pretrained)
    encoder_config.hidden_dropout_prob = settings.encoder_dropout
    encoder_config.attention_probs_dropout_prob = settings.encoder_dropout
    encoder = AutoModel.from_pretrained(
        pretrained, config=encoder_config, dtype=torch.float32, **pooler_off(encoder_config.model_type)
    )
    config = ModelConfig(
        encoder=encoder_config.to_dict(),
        labels=tuple(labels),
        pooling=settings.pooling,
        head=settings.head,
        activation=settings.activation,
        dropout=settings.dropout,
        max_tokens=settings.max_tokens,
        pad_id=encoder_config.pad_token_id,
    )
    torch.manual_seed(seed)
    return Classifier(config, encoder)


def encode(dataset: Dataset, encoder: Encoder) -> Split:
    """Token ids of the cleaned posts of a split."""
    return Split([item.ids for item in encoder(list(dataset["clean"]))], list(dataset["label"]))


def fingerprint(settings: Train, seed: int, precision: str, *splits: Split) -> str:
    """A hash of everything that a checkpoint belongs to; which other candidates there are is no part of it."""
    described = asdict(settings) | {"candidates": None, "seed": seed, "precision": precision}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for split in splits:
        digest.update(json.dumps([split.ids, split.labels]).encode())
    return digest.hexdigest()


def main() -> None:
    candidate = sys.argv[1]
    with stage(f"train-{candidate}"):
        params = load()
        settings = params.train
        train, validation = load_split(AUGMENTED, "train"), load_split(PREPARED, "validation")
        encoder = Encoder(PRETRAINED / candidate, settings.max_tokens)
        splits = encode(train, encoder), encode(validation, encoder)
        device = choose_device()
        precision = choose_precision(settings.precision, device)
        log.info("%s posts on %s in %s", len(train), device, precision)
        model = build(PRETRAINED / candidate, label_names(train), settings, params.seed)
        trainer = Trainer(model, settings, params.seed, device, precision)
        checkpoint = CHECKPOINTS / f"{candidate}.pt"
        progress = trainer.fit(*splits, checkpoint, fingerprint(settings, params.seed, precision, *splits))
        with replacing(DEEP / candidate) as folder:
            model.cpu().save(folder)
            shutil.copyfile(PRETRAINED / candidate / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        header = list(progress.history[0])
        write_csv(PLOTS / "train" / f"{candidate}.csv", header, [list(row.values()) for row in progress.history])
        write_json(METRICS / "train" / f"{candidate}.json", summary(trainer, progress.best_f1, progress.best_step))
        remove(checkpoint)


def summary(trainer: Trainer, best_f1: float, best_step: int) -> dict[str, float | str]:
    """What a run is judged by. Rates and padding are of the steps since the last start."""
    return {
        "validation_macro_f1": round(best_f1, 4),
        "best_step": best_step,
        "device": trainer.device.type,
        "precision": trainer.precision,
        "tokens_per_s": round(trainer.tokens / max(trainer.seconds, 1e-9)),
        "padding_share": round(1 - trainer.tokens / max(trainer.padded, 1), 4),
    }


if __name__ == "__main__":
    main()
