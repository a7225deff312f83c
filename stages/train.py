"""Stage `train`: fine-tune one pre-trained encoder with pooling and a dense head. `python -m stages.train minilm`"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from handlers.config import ModelConfig
from handlers.model import Classifier, pooler_off
from handlers.text import TOKENIZER_FILE, Encoder
from stages.acceleration import build_accelerator, precision_of, processes
from stages.batches import Split
from stages.checkpoint import Identity, fingerprint
from stages.corpus import label_names, load_split
from stages.files import remove, replacing, sha256
from stages.inputs import candidate_argument, require
from stages.params import Train, load
from stages.paths import AUGMENTED, CHECKPOINTS, DEEP, PLOTS, PREPARED, PRETRAINED, PROJECT
from stages.stage import StageError, stage
from stages.training import Progress, Trainer

log = logging.getLogger(__name__)

# What a training run computes with: half a run of one code and half of another would be the work of neither.
CODE = (
    "handlers/model.py",
    "handlers/text.py",
    "handlers/words.py",
    "stages/acceleration.py",
    "stages/batches.py",
    "stages/optimizer.py",
    "stages/train.py",
    "stages/training.py",
)
LIBRARIES = ("accelerate", "tokenizers", "torch", "transformers")


def fetched(candidate: str) -> Path:
    """The folder of a candidate's checkpoint. Raises StageError where it was not fetched."""
    folder = PRETRAINED / candidate
    require(folder / TOKENIZER_FILE, "run the fetch stage with this candidate")
    return folder


def build(pretrained: Path, labels: list[str], settings: Train, seed: int) -> Classifier:
    """A classifier with pre-trained encoder and fresh head, the same for the same seed.

    Raises StageError where there is no checkpoint, or it lacks weights of the encoder.
    """
    if not (pretrained / "model.safetensors").is_file():
        raise StageError(f"{pretrained} has no checkpoint: run the fetch stage with this candidate")
    encoder_config = AutoConfig.from_pretrained(pretrained)
    encoder_config.hidden_dropout_prob = settings.encoder_dropout
    encoder_config.attention_probs_dropout_prob = settings.encoder_dropout
    encoder = load_encoder(pretrained, encoder_config)
    config = ModelConfig(
        encoder=encoder_config.to_dict(),
        labels=tuple(labels),
        pooling=settings.pooling,
        head=settings.head,
        activation=settings.activation,
        dropout=settings.dropout,
        max_tokens=settings.max_tokens,
        head_norm=settings.head_norm,
        pad_id=encoder_config.pad_token_id,
    )
    torch.manual_seed(seed)
    return Classifier(config, encoder)


def load_encoder(pretrained: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder of a checkpoint; a pooler or a head that came with it is left out.

    Raises StageError where weights of the encoder are missing, which transformers would only draw at random.
    """
    verbosity = transformers_logging.get_verbosity()
    # Its report warns of what is left out on purpose; what must not be missing is an error here.
    transformers_logging.set_verbosity_error()
    try:
        encoder, loaded = AutoModel.from_pretrained(
            pretrained, config=config, dtype=torch.float32, output_loading_info=True, **pooler_off(config.model_type)
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := sorted(loaded["missing_keys"]):
        raise StageError(
            f"{pretrained} lacks {len(missing)} tensors of its encoder, {missing[0]} first: remove the folder and run "
            "dvc repro fetch"
        )
    return encoder


def encode(dataset: Dataset, encoder: Encoder) -> Split:
    """Token ids of the cleaned posts of a split. Raises StageError where a post has no text."""
    texts = list(dataset["clean"])
    if "" in texts:
        raise StageError(f"post {dataset['id'][texts.index('')]} is empty after cleaning: run dvc repro prepare")
    return Split([item.ids for item in encoder(texts)], list(dataset["label"]))


def start_curves(accelerator: Accelerator, folder: Path) -> None:
    """Let what the accelerator logs be curves in `folder`, and the last figures of each, by DVCLive.

    They can be watched while the run goes on: `dvc plots show`.
    """
    # To keep them for a commit or an experiment is the pipeline's own business.
    live = {"dir": str(folder), "save_dvc_exp": False, "dvcyaml": None}
    accelerator.init_trackers("train", init_kwargs={"dvclive": live})


def identity(model: Classifier, settings: Train, seed: int, accelerator: Accelerator, *splits: Split) -> Identity:
    """Everything that a checkpoint belongs to, of a model not yet trained; other candidates are no part of it."""
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    described = {f"train.{key}": value for key, value in settings.alone().items()}
    described |= {"train.precision": precision_of(accelerator), "device": accelerator.device.type}
    described |= {"processes": accelerator.num_processes, "seed": seed}
    described |= {
        "architecture": fingerprint(asdict(model.config)),
        "initial weights": hashlib.sha256(weights).hexdigest()[:12],
        "data": fingerprint([[split.ids, split.labels] for split in splits]),
        "code": fingerprint([sha256(PROJECT / path) for path in CODE]),
        "libraries": libraries(),
    }
    return {key: str(value) for key, value in described.items()}


def libraries() -> str:
    """Names and versions of what a training run computes with, besides its CODE."""
    return " ".join(f"{name} {version(name)}" for name in LIBRARIES)


def train(candidate: str, seed: int, settings: Train) -> None:
    """Read the splits, train, and write the model and, while it trains, its curves. settings: of all candidates."""
    settings = settings.of(candidate)
    splits = load_split(AUGMENTED, "train"), load_split(PREPARED, "validation")
    pretrained = fetched(candidate)
    encoder = Encoder(pretrained, settings.max_tokens)
    encoded = [encode(split, encoder) for split in splits]
    accelerator = build_accelerator(settings.precision)
    start_curves(accelerator, PLOTS / "train" / candidate)
    log.info("%s posts on %s in %s", len(splits[0]), accelerator.device, precision_of(accelerator))
    model = build(pretrained, label_names(splits[0]), settings, seed)
    belongs = identity(model, settings, seed, accelerator, *encoded)
    trainer = Trainer(model, *encoded, settings, seed, accelerator)
    checkpoint = CHECKPOINTS / f"{candidate}.pt"
    progress = trainer.fit(checkpoint, belongs)
    if accelerator.is_main_process:
        with replacing(DEEP / candidate) as folder:
            model.cpu().save(folder)
            shutil.copyfile(pretrained / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        accelerator.get_tracker("dvclive", unwrap=True).summary |= summary(trainer, progress)
    accelerator.end_training()
    if accelerator.is_main_process:
        # Last, when all that it could restore is written.
        remove(checkpoint)


def main() -> None:
    candidate = candidate_argument()
    # Several processes train one model, and the first one speaks for all.
    first = processes().is_main_process
    with stage(f"train-{candidate}") if first else contextlib.suppress(StageError):
        params = load()
        train(candidate, params.seed, params.train)


def summary(trainer: Trainer, progress: Progress) -> dict[str, float | str]:
    """What a run is judged by. Rates and padding are of all its steps, those before an interruption included."""
    return {
        "best_validation_macro_f1": round(progress.best_f1, 4),
        "best_step": progress.best_step,
        "device": trainer.accelerator.device.type,
        "precision": precision_of(trainer.accelerator),
        "processes": trainer.accelerator.num_processes,
        "tokens_per_s": round(progress.tokens / progress.seconds),
        "padding_share": round(1 - progress.tokens / progress.padded, 4),
    }


if __name__ == "__main__":
    main()
