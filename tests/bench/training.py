"""`python -m tests.bench.training`: this project's training loop against the stock Hugging Face Trainer.

The same posts, the same machine, one run, each side in a process of its own: one epoch, batches of equal size. The
stock side is what its documentation shows: float32, padded to the maximum length, the checkpoint's own dropout and
head; where ours has another precision, once more in ours. Then the stock side is trained anew for one epoch more, and
again, until it scores as well: what an equal score costs on either side (as in DAWNBench, Coleman et al. 2017). The
rate that the machine reaches on bare products of the encoder's shapes is measured beside them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from torch import Tensor

from handlers.cores import usable_cores
from handlers.text import Encoder, pad
from stages.acceleration import build_accelerator, precision_of
from stages.corpus import label_names, load_split
from stages.hardware import choose_device
from stages.metrics import rounded
from stages.params import Train, load
from stages.paths import PREPARED, PRETRAINED
from stages.train import build, encode
from stages.training import Trainer
from tests.bench.traffic import report

Result = dict[str, Any]
# Macro-F1 by which the stock side may stay behind and still counts as equal.
EQUAL = 0.005
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Task:
    """What both sides do: train on the posts, then score the others."""

    candidate: Path
    train: Dataset
    validation: Dataset
    settings: Train
    seed: int
    threads: int


def ours(task: Task) -> Result:
    """This project's loop, linear probe included."""
    encoder = Encoder(task.candidate, task.settings.max_tokens)
    splits = encode(task.train, encoder), encode(task.validation, encoder)
    accelerator = build_accelerator(task.settings.precision)
    model = build(task.candidate, label_names(task.train), task.settings, task.seed)
    started = time.perf_counter()
    trainer = Trainer(model, *splits, task.settings, task.seed, accelerator)
    # Without checkpoints, as the stock side.
    progress = trainer.fit()
    return {
        "precision": precision_of(accelerator),
        "seconds": progress.seconds,
        "total_s": time.perf_counter() - started,
        "tokens": progress.tokens,
        "padded": progress.padded,
        "macro_f1": progress.best_f1,
        "gflops": product_flops(model.encoder, progress.padded) / progress.seconds / 1e9,
    }


def stock(task: Task, precision: str = "float32") -> Result:
    """The stock Trainer with a stock classification head. precision: a key of DTYPES."""
    from transformers import AutoModelForSequenceClassification, TrainingArguments
    from transformers import Trainer as StockTrainer

    torch.manual_seed(task.seed)
    labels = len(label_names(task.train))
    model = AutoModelForSequenceClassification.from_pretrained(task.candidate, num_labels=labels, dtype=torch.float32)
    encoder = Encoder(task.candidate, task.settings.max_tokens)
    sets, tokens = [], 0
    for split in (task.train, task.validation):
        encoded = encode(split, encoder)
        tokens = tokens or sum(encoded.lengths)
        # One more row than posts, as long as can be: all are padded to it.
        longest = [model.config.pad_token_id] * task.settings.max_tokens
        ids, mask = pad([*encoded.ids, longest], model.config.pad_token_id)
        sets.append(Dataset.from_dict({"input_ids": ids[:-1], "attention_mask": mask[:-1], "labels": encoded.labels}))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=task.settings.epochs,
            per_device_train_batch_size=task.settings.batch_size,
            per_device_eval_batch_size=task.settings.batch_size,
            learning_rate=task.settings.lr,
            seed=task.seed,
            # Without it, the library takes a machine without a GPU for one that has no bf16.
            use_cpu=not torch.cuda.is_available(),
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            save_strategy="no",
            report_to="none",
        )
        trainer = StockTrainer(model, arguments, train_dataset=sets[0])
        metrics = trainer.train().metrics
        total = time.perf_counter() - started
        predicted = trainer.predict(sets[1]).predictions.argmax(axis=1)
    padded = len(task.train) * task.settings.max_tokens * task.settings.epochs
    return {
        "precision": precision,
        "seconds": metrics["train_runtime"],
        "total_s": total,
        "tokens": tokens * task.settings.epochs,
        "padded": padded,
        "macro_f1": float(f1_score(task.validation["label"], predicted, average="macro")),
        "gflops": product_flops(model.base_model, padded) / metrics["train_runtime"] / 1e9,
    }


def stock_until(macro_f1: float, first: Result, task: Task, most_epochs: int) -> list[Result]:
    """The stock side's runs, each from the start with a schedule of its own, one epoch more each time.

    first: the run of the task as it is. The last one scores `macro_f1`, or nearly, unless `most_epochs` are too few.
    """
    runs, epochs = [first], task.settings.epochs
    while runs[-1]["macro_f1"] < macro_f1 - EQUAL and epochs < most_epochs:
        epochs += 1
        runs.append(apart(stock, replace(task, settings=replace(task.settings, epochs=epochs))))
    return runs


def equal_score(runs: list[Result], row: Result) -> Result:
    """What the stock side's runs needed for the score of this project's row; no ratio where none of them has it."""
    reached = runs[-1]["macro_f1"] >= row["macro_f1"] - EQUAL
    return {
        "stock_macro_f1_by_epochs": [run["macro_f1"] for run in runs],
        "stock_s": runs[-1]["total_s"],
        "times_as_fast": runs[-1]["total_s"] / row["total_s"] if reached else None,
    }


def product_flops(encoder: torch.nn.Module, tokens: int) -> float:
    """Operations of the dense layers' products, forward and backward; those inside the attention are left out.

    Two a weight and token forward, four backward (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361).
    """
    layers = [module for module in encoder.modules() if isinstance(module, torch.nn.Linear)]
    return 6.0 * tokens * sum(layer.weight.numel() for layer in layers)


def product_rate(task: Task, precision: str, seconds: float = 3.0) -> float:
    """GFLOP/s of bare products where training runs: a batch of tokens times the encoder's kinds of dense layers."""
    device = choose_device()
    config = build(task.candidate, label_names(task.train), task.settings, task.seed).encoder.config
    width, inner = config.hidden_size, config.intermediate_size
    rows = task.settings.batch_size * task.settings.max_tokens
    # Attention has four square layers for each pair of the feed-forward ones.
    shapes = [(width, width)] * 4 + [(width, inner), (inner, width)]
    pairs: list[tuple[Tensor, ...]] = [
        tuple(torch.randn(size).to(device, DTYPES[precision]) for size in ((rows, inputs), (inputs, outputs)))
        for inputs, outputs in shapes
    ]

    # A GPU computes while the next products are being asked for: many are asked for before one waits for it.
    at_once = 100 if device.type == "cuda" else 1

    def all_products() -> None:
        for _ in range(at_once):
            for left, right in pairs:
                left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()

    all_products()
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        all_products()
        rounds += 1
    flops = rounds * at_once * sum(2.0 * rows * inputs * outputs for inputs, outputs in shapes)
    return flops / (time.perf_counter() - started) / 1e9


def both_rates(task: Task) -> Result:
    """The machine's rate in the precision of either side."""
    precision = precision_of(build_accelerator(task.settings.precision))
    return {name: product_rate(task, name) for name in {"float32", precision}}


def apart(work: Callable[[Task], Result], task: Task) -> Result:
    """The work's result from a process of its own, with the most memory that it held."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, task))


def _measured(work: Callable[[Task], Result], task: Task) -> Result:
    torch.set_num_threads(task.threads)
    result = work(task)
    if torch.cuda.is_available():
        result |= {"peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20}
    return result | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def spread(split: Dataset, posts: int) -> Dataset:
    """That many posts, evenly over a split that is sorted by class."""
    return split.select(np.unique(np.linspace(0, len(split) - 1, posts).astype(int)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", default="minilm")
    parser.add_argument("--posts", type=int, default=960, help="of the training split")
    parser.add_argument("--validation", type=int, default=1000, help="posts that both are scored on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--most-epochs", type=int, default=6, help="of the stock side, for an equal score")
    parser.add_argument("--precision", default="auto", help="of this project's side")
    parser.add_argument("--threads", type=int, default=min(torch.get_num_threads(), usable_cores()))
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    params = load()
    settings = params.train.of(options.candidate)
    settings = replace(settings, epochs=options.epochs, evaluations=1, precision=options.precision)
    task = Task(
        PRETRAINED / options.candidate,
        spread(load_split(PREPARED, "train"), options.posts),
        spread(load_split(PREPARED, "validation"), options.validation),
        settings,
        params.seed,
        options.threads,
    )
    rates = apart(both_rates, task)
    rows = {"stock": apart(stock, task), "ours": apart(ours, task)}
    if (precision := rows["ours"]["precision"]) != "float32":
        rows[f"stock_{precision}"] = apart(partial(stock, precision=precision), task)
    runs = stock_until(rows["ours"]["macro_f1"], rows["stock"], task, options.most_epochs)
    for row in rows.values():
        row["posts_s"] = len(task.train) * options.epochs / row["seconds"]
        row["padding"] = 1 - row.pop("tokens") / row.pop("padded")
        row["share_of_bare_products"] = row["gflops"] / rates[row["precision"]]
    ratios = {
        name: {what: row[what] / rows["ours"][what] for what in ("seconds", "total_s")}
        for name, row in rows.items()
        if name != "ours"
    }
    figures = {
        "posts": len(task.train),
        "epochs": options.epochs,
        "threads": options.threads,
        "bare_products_gflops": {name: rate for name, rate in rates.items() if name in DTYPES},
        **rows,
        # Of the steps alone, and with probe and validation.
        "times_as_fast": ratios,
        "equal_score": equal_score(runs, rows["ours"]),
    }
    report(rounded(figures), options.output)


if __name__ == "__main__":
    main()
