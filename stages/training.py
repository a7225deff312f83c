"""The training loop: linear-probe start, AdamW, warm-up schedule, early stopping, exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from handlers.model import Classifier
from handlers.text import pack_by_length, pad
from stages import checkpoint
from stages.hardware import DTYPES
from stages.params import Train
from stages.stage import StageError

EVALUATION_TOKENS = 8192
CHECKPOINT_STEPS = 100
# Batches whose posts are sorted together: enough that few tokens are padding, few enough that batches stay random.
BUCKET_BATCHES = 50
PROBE_LR = 1e-3
PROBE_BATCH = 256


@dataclass(frozen=True)
class Split:
    """Token ids and class index of each post."""

    ids: Sequence[Sequence[int]]
    labels: Sequence[int]


@dataclass
class Progress:
    """Where a run stands; all of it travels in the checkpoint. history: a row per evaluation."""

    step: int = 0
    best_f1: float = -1.0
    best_step: int = 0
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, lists of indices; a function of its arguments alone, so that a run can resume.

    Posts of similar length share a batch, which leaves little padding; which posts, and the order of the batches, is
    random.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), BUCKET_BATCHES * batch_size):
        bucket = order[start : start + BUCKET_BATCHES * batch_size]
        bucket = bucket[np.argsort(np.asarray(lengths)[bucket], kind="stable")]
        batches += [bucket[i : i + batch_size].tolist() for i in range(0, len(bucket), batch_size)]
    random.shuffle(batches)
    return batches


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """AdamW that leaves biases and norms undecayed (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr, fused=True)


def build_schedule(optimizer: Optimizer, name: str, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up over a share `warmup` of all steps, then a linear or cosine fall to zero."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        rest = (step - rising) / max(1, steps - rising)
        return 1.0 - rest if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))

    return LambdaLR(optimizer, factor)


def to_tensors(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One padded batch on the device: input ids and attention mask, [batch, longest]."""
    input_ids, mask = pad(ids, pad_id)
    return torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device)


class Trainer:
    """One fine-tuning run of one candidate."""

    def __init__(self, model: Classifier, settings: Train, seed: int, device: torch.device, precision: str) -> None:
        self.model = model.to(device)
        self.settings = settings
        self.seed = seed
        self.device = device
        self.precision = precision
        self.pad_id = model.config.pad_id
        self.tokens = 0
        self.padded = 0
        self.seconds = 0.0

    def fit(self, train: Split, validation: Split, checkpoint_path: Path, fingerprint: str) -> Progress:
        """Train with the best validation macro-F1 kept; the model ends with the weights of that evaluation.

        A run that was interrupted goes on from its checkpoint and ends with the same bits. Raises StageError when the
        loss is no longer a number.
        """
        settings = self.settings
        lengths = [len(item) for item in train.ids]
        steps_per_epoch = math.ceil(len(lengths) / settings.batch_size)
        steps = settings.epochs * steps_per_epoch
        every = max(1, steps_per_epoch // settings.evaluations)
        optimizer = build_optimizer(self.model, settings.lr, settings.weight_decay)
        schedule = build_schedule(optimizer, settings.schedule, steps, settings.warmup)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        parts = {"model": self.model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}

        state = checkpoint.load(checkpoint_path, fingerprint)
        if state is None:
            torch.manual_seed(self.seed)
            progress, best = Progress(), {}
            if settings.probe_epochs:
                self.probe(train)
        else:
            progress, best = Progress(**state["progress"]), state["best"]
            for name, part in parts.items():
                part.load_state_dict(state[name])

        def save() -> None:
            content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.save(checkpoint_path, fingerprint, content | {"progress": vars(progress), "best": best})

        bar = tqdm(total=steps, initial=progress.step, unit="step", desc="train", mininterval=5)
        batches: list[list[int]] = []
        try:
            while progress.step < steps and progress.stale < settings.patience:
                epoch, position = divmod(progress.step, steps_per_epoch)
                if not batches or position == 0:
                    batches = epoch_batches(lengths, settings.batch_size, self.seed, epoch)
                loss = self.step(train, batches[position], optimizer, scaler)
                schedule.step()
                progress.step += 1
                progress.loss_sum += loss
                progress.loss_count += 1
                bar.update()
                if progress.step % every == 0 or progress.step == steps:
                    if self.evaluate(validation, schedule.get_last_lr()[0], steps_per_epoch, progress):
                        best = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
                    save()
                elif progress.step % CHECKPOINT_STEPS == 0:
                    save()
                rate = self.tokens / max(self.seconds, 1e-9)
                bar.set_postfix(loss=f"{loss:.3f}", f1=f"{progress.best_f1:.3f}", tokens_s=f"{rate:.0f}", refresh=False)
        except KeyboardInterrupt:
            save()
            raise StageError(f"interrupted at step {progress.step}; dvc repro goes on from there") from None
        finally:
            bar.close()
        self.model.load_state_dict(best)
        return progress

    def step(self, split: Split, batch: list[int], optimizer: Optimizer, scaler: torch.amp.GradScaler) -> float:
        """One update of the weights; returns the loss."""
        started = time.perf_counter()
        self.model.train()
        ids = [split.ids[i] for i in batch]
        labels = torch.tensor([split.labels[i] for i in batch], device=self.device)
        input_ids, mask = to_tensors(ids, self.pad_id, self.device)
        with self.autocast():
            logits = self.model(input_ids, mask)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise StageError(f"the loss is {value}: lower train.lr, or set train.precision to float32")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        self.tokens += sum(map(len, ids))
        self.padded += input_ids.numel()
        self.seconds += time.perf_counter() - started
        return value

    def evaluate(self, split: Split, lr: float, steps_per_epoch: int, progress: Progress) -> bool:
        """Score the split, add a row to the history; True where this is the best so far."""
        logits = self.run(self.model, split.ids, "validate")
        predicted = logits.argmax(axis=1)
        f1 = float(f1_score(split.labels, predicted, average="macro"))
        validation_loss = float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(split.labels)))
        progress.history.append(
            {
                "step": progress.step,
                "epoch": round(progress.step / steps_per_epoch, 4),
                "lr": lr,
                "loss": round(progress.loss_sum / max(progress.loss_count, 1), 4),
                "validation_loss": round(validation_loss, 4),
                "validation_macro_f1": round(f1, 4),
            }
        )
        progress.loss_sum, progress.loss_count = 0.0, 0
        better = f1 > progress.best_f1
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_f1, progress.best_step = f1, progress.step
        return better

    def probe(self, split: Split) -> None:
        """Train the head alone on frozen features first, so that its first large gradients do not spoil the encoder.

        Linear probing, then fine-tuning: Kumar et al. 2022, https://arxiv.org/abs/2202.10054
        """
        features = torch.from_numpy(self.run(self.model.features, split.ids, "probe features")).to(self.device)
        labels = torch.tensor(split.labels, device=self.device)
        optimizer = build_optimizer(self.model.head, PROBE_LR, self.settings.weight_decay)
        self.model.head.train()
        for _ in range(self.settings.probe_epochs):
            for batch in torch.randperm(len(labels), device="cpu").split(PROBE_BATCH):
                chosen = batch.to(self.device)
                loss = nn.functional.cross_entropy(self.model.head(features[chosen]), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    def run(self, call: Callable[[Tensor, Tensor], Tensor], ids: Sequence[Sequence[int]], name: str) -> np.ndarray:
        """`call` on every post in evaluation mode, batched by length: float32 [posts, width]."""
        self.model.eval()
        rows: dict[int, np.ndarray] = {}
        batches = pack_by_length([len(item) for item in ids], EVALUATION_TOKENS)
        for batch in tqdm(batches, desc=name, leave=False, mininterval=5):
            with torch.inference_mode(), self.autocast():
                output = call(*to_tensors([ids[i] for i in batch], self.pad_id, self.device))
            rows.update(zip(batch, output.float().cpu().numpy(), strict=True))
        return np.stack([rows[i] for i in range(len(ids))])

    def autocast(self) -> torch.autocast:
        """Mixed precision for the products, where it pays."""
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "float32")
