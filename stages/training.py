"""The training loop: linear-probe start, AdamW, warm-up schedule, early stopping, exact resumption.

Device, precision and processes are accelerate's business (https://huggingface.co/docs/accelerate).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast, gather_object
from sklearn.metrics import f1_score
from torch import Tensor, nn
from tqdm import tqdm

from handlers.memory import give_back_freed_memory
from handlers.model import Classifier
from handlers.text import FEWEST_BATCHES, pack_by_length
from stages import checkpoint
from stages.acceleration import attention
from stages.batches import Split, epoch_batches, passes, to_tensors
from stages.interruption import InterruptionError, interruptible
from stages.optimizer import build_optimizer, build_schedule, class_weights
from stages.params import Train
from stages.stage import StageError

EVALUATION_TOKENS = 4096
CHECKPOINT_STEPS = 100
# The linear probe reads no more posts than that: one pass over 10,000 takes a seventh of the whole training on a CPU.
PROBE_POSTS = 4000
PROBE_LR = 1e-3
PROBE_BATCH = 256


@dataclass
class Progress:
    """Where a run stands; all of it travels in the checkpoint.

    tokens, padded: real and padded tokens of all processes in all steps. seconds: of this process in those steps, which
    no two runs share. history: a row per evaluation.
    """

    step: int = 0
    best_f1: float = -1.0
    best_step: int = 0
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    tokens: int = 0
    padded: int = 0
    seconds: float = field(default=0.0, compare=False)
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One fine-tuning run of one candidate. Every process makes one; they see the same batches and share them out.

    Raises StageError where a class has no post to train on, or a batch may have fewer posts than there are processes.
    """

    def __init__(
        self, model: Classifier, train: Split, validation: Split, settings: Train, seed: int, accelerator: Accelerator
    ) -> None:
        labels = model.config.labels
        if missing := sorted(set(range(len(labels))) - set(train.labels)):
            names = ", ".join(labels[index] for index in missing)
            raise StageError(f"no post of {names} to train on: add some, or lower prepare.validation")
        self.model = model
        self.train = train
        self.validation = validation
        self.settings = settings
        self.seed = seed
        self.accelerator = accelerator
        self.pad_id = model.config.pad_id
        self.weights = class_weights(train.labels, len(labels), settings.class_weights).to(accelerator.device)
        self.steps_per_epoch = math.ceil(len(train.ids) / settings.batch_size)
        # A process without a post would leave the others waiting for its gradients, and a batch may be half full.
        fewest, processes = min(len(train.ids), max(settings.batch_size // 2, 1)), accelerator.num_processes
        if fewest < processes:
            raise StageError(
                f"{processes} processes cannot share batches of {fewest} posts: set train.batch_size to "
                f"{2 * processes} or more, or start fewer processes"
            )
        # What a batch of the longest posts takes, divided among the processes and then into passes.
        parts = settings.accumulation * accelerator.num_processes
        self.token_budget = math.ceil(settings.batch_size * settings.max_tokens / parts)
        # After so many steps of an epoch the validation split is scored, the last one among them.
        often = settings.evaluations
        self.evaluations = {round(number * self.steps_per_epoch / often) for number in range(1, often + 1)}
        self.progress = Progress()
        self.path: Path | None = None

    def fit(self, path: Path | None = None, identity: checkpoint.Identity | None = None) -> Progress:
        """Train with the best validation macro-F1 kept; the model ends with the weights of that evaluation.

        path: of the checkpoint, from which an interrupted run goes on to end with the same bits; None to keep none.
        identity: what that checkpoint belongs to. Raises StageError when the loss is no longer a number, or the
        checkpoint is of another run, and InterruptionError after Ctrl-C.
        """
        self.path = path
        settings, accelerator = self.settings, self.accelerator
        steps = settings.epochs * self.steps_per_epoch
        optimizer = build_optimizer(self.model, settings.lr, settings.weight_decay)
        schedule = build_schedule(optimizer, settings.schedule, steps, settings.warmup)
        self.network, stepper = accelerator.prepare(self.model, optimizer)
        parts = {"model": self.model, "optimizer": optimizer, "schedule": schedule}
        if accelerator.scaler is not None:
            parts["scaler"] = accelerator.scaler

        def save() -> None:
            if path is None:
                return
            content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.save(path, identity or {}, content | {"progress": vars(progress), "best": best})

        state = checkpoint.load(path, identity or {}) if path else None
        if state is None:
            progress, best = self.progress, {}
            torch.manual_seed(self.seed)
            if settings.probe_epochs:
                try:
                    self.probe()
                except KeyboardInterrupt:
                    # Before the first checkpoint there is nothing to keep that it should wait for.
                    raise InterruptionError("interrupted before the first step; run again, it begins anew") from None
            # From here on each process draws its own dropout.
            torch.manual_seed(self.seed + accelerator.process_index)
            save()
        else:
            progress, best = Progress(**state["progress"]), state["best"]
            self.progress = progress
            for row in progress.history:
                self.log(row)
            for name, part in parts.items():
                part.load_state_dict(state[name])

        bar = self.bar(total=steps, initial=progress.step, unit="step", desc="train")
        batches: list[list[int]] = []
        with bar, attention(accelerator, self.model.encoder), interruptible() as interrupted:
            while progress.step < steps and progress.stale < settings.patience:
                epoch, position = divmod(progress.step, self.steps_per_epoch)
                if not batches or position == 0:
                    batches = epoch_batches(self.train.lengths, settings.batch_size, self.seed, epoch)
                loss = self.step(batches[position], stepper)
                schedule.step()
                progress.step += 1
                progress.loss_sum += loss
                progress.loss_count += 1
                if evaluation := position + 1 in self.evaluations:
                    bar.set_description("validate")
                    if self.evaluate(schedule.get_last_lr()[0]):
                        best = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
                    bar.set_description("train")
                # Asked last, so that none is missed: after the run's last step nothing would ask again.
                stop = self.anywhere(interrupted())
                if evaluation or stop or progress.step % CHECKPOINT_STEPS == 0:
                    save()
                    give_back_freed_memory()
                best_f1 = f"{progress.best_f1:.3f}" if progress.history else "-"
                rate = progress.tokens / progress.seconds
                bar.set_postfix(loss=f"{loss:.3f}", f1=best_f1, tokens_s=f"{rate:.0f}", refresh=False)
                bar.update()
                if stop:
                    later = "run again to go on from there" if path else "run again, it begins anew"
                    raise InterruptionError(f"interrupted at step {progress.step} of {steps}; {later}")
        self.model = accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        self.model.load_state_dict(best)
        return progress

    def step(self, batch: list[int], optimizer: AcceleratedOptimizer) -> float:
        """One update of the weights. Returns the loss of the whole batch.

        The loss is the weighted mean over the batch, however it is shared out: each pass adds its posts' part of it.
        """
        started = time.perf_counter()
        accelerator, split = self.accelerator, self.train
        self.network.train()
        optimizer.zero_grad()
        shares = passes(batch, split.lengths, accelerator.num_processes, self.token_budget)
        own = shares[accelerator.process_index]
        total = self.weights[[split.labels[i] for i in batch]].sum()
        summed = torch.zeros(1, device=accelerator.device)
        for number, chosen in enumerate(own, start=1):
            inputs = to_tensors([split.ids[i] for i in chosen], self.pad_id, accelerator.device)
            targets = torch.tensor([split.labels[i] for i in chosen], device=accelerator.device)
            # Only the last pass exchanges gradients; the others add up where they are.
            with contextlib.nullcontext() if number == len(own) else accelerator.no_sync(self.network):
                loss = self.loss(self.network(*inputs), targets) / total
                # Processes' gradients are averaged, and what is wanted is their sum.
                accelerator.backward(loss * accelerator.num_processes)
            summed += loss.detach()
        value = accelerator.reduce(summed, "sum").item()
        norm = float(accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm))
        # In fp16 a norm that is no number is usual: the scaler then leaves the step out and scales less.
        if not math.isfinite(value) or not (math.isfinite(norm) or accelerator.scaler):
            # With either mended it is another run, to which the checkpoint does not belong.
            anew = f", and delete {self.path}" if self.path else ""
            raise StageError(
                f"the loss is {value} and the norm of its gradient {norm}: lower train.lr, or set train.precision to "
                f"float32{anew}"
            )
        optimizer.step()
        groups = [chosen for share in shares for chosen in share]
        self.progress.tokens += sum(split.lengths[i] for i in batch)
        self.progress.padded += sum(len(chosen) * max(split.lengths[i] for i in chosen) for chosen in groups)
        self.progress.seconds += time.perf_counter() - started
        return value

    def anywhere(self, flag: bool) -> bool:
        """Whether it holds in any process: they must all end after the same step."""
        return bool(self.accelerator.reduce(torch.tensor([float(flag)], device=self.accelerator.device), "sum").item())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, weighted by class and summed over posts."""
        smoothing = self.settings.label_smoothing
        return nn.functional.cross_entropy(
            logits.float(), targets, self.weights, reduction="sum", label_smoothing=smoothing
        )

    def evaluate(self, lr: float) -> bool:
        """Score the validation split, add a row to the history and log it; True where this is the best so far."""
        progress = self.progress
        logits, labels = self.run(self.model, self.validation.ids), self.validation.labels
        f1 = float(f1_score(labels, logits.argmax(axis=1), average="macro"))
        validation_loss = float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(labels)))
        progress.history.append(
            {
                "step": progress.step,
                "epoch": round(progress.step / self.steps_per_epoch, 4),
                "lr": lr,
                "loss": round(progress.loss_sum / max(progress.loss_count, 1), 4),
                "validation_loss": round(validation_loss, 4),
                "validation_macro_f1": round(f1, 4),
            }
        )
        self.log(progress.history[-1])
        progress.loss_sum, progress.loss_count = 0.0, 0
        better = f1 > progress.best_f1
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_f1, progress.best_step = f1, progress.step
        return better

    def log(self, row: dict[str, float]) -> None:
        """Hand a row of the history to the trackers that the accelerator has, if any."""
        curves = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        self.accelerator.log(curves, step=int(row["step"]))

    def probe(self) -> None:
        """Train the head alone on frozen features first, so that its first large gradients do not spoil the encoder.

        Linear probing, then fine-tuning: Kumar et al. 2022, https://arxiv.org/abs/2202.10054. Every process trains the
        same head on the features that all have computed, of PROBE_POSTS drawn at random where there are more; where
        hardware rounds unlike, the first one's counts.
        """
        device, split = self.accelerator.device, self.train
        drawn = torch.randperm(len(split.ids), device="cpu")[:PROBE_POSTS].tolist()
        with self.bar(total=len(drawn), unit="post", desc="probe", leave=False) as bar:
            features = torch.from_numpy(self.run(self.model.features, [split.ids[i] for i in drawn], bar)).to(device)
        labels = torch.tensor([split.labels[i] for i in drawn], device=device)
        optimizer = build_optimizer(self.model.head, PROBE_LR, self.settings.weight_decay)
        self.model.head.train()
        for _ in range(self.settings.probe_epochs):
            for batch in torch.randperm(len(labels), device="cpu").split(PROBE_BATCH):
                chosen = batch.to(device)
                loss = nn.functional.cross_entropy(self.model.head(features[chosen]), labels[chosen], self.weights)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        broadcast([parameter.detach() for parameter in self.model.head.parameters()])

    def run(
        self, call: Callable[[Tensor, Tensor], Tensor], ids: Sequence[Sequence[int]], bar: tqdm | None = None
    ) -> np.ndarray:
        """`call` on every post in evaluation mode, batched by length, shared out: float32 [posts, width]."""
        accelerator = self.accelerator
        self.model.eval()
        rows: list[tuple[int, np.ndarray]] = []
        batches = pack_by_length([len(item) for item in ids], EVALUATION_TOKENS, FEWEST_BATCHES)
        for batch in batches[accelerator.process_index :: accelerator.num_processes]:
            with torch.inference_mode(), accelerator.autocast():
                output = call(*to_tensors([ids[i] for i in batch], self.pad_id, accelerator.device))
            rows += zip(batch, output.float().cpu().numpy(), strict=True)
            if bar is not None:
                bar.update(len(batch) * accelerator.num_processes)
        return np.stack([row for _, row in sorted(gather_object(rows), key=lambda item: item[0])])

    def bar(self, **options: Any) -> tqdm:
        """A progress bar of the first process."""
        return tqdm(**options, mininterval=5, disable=not self.accelerator.is_main_process)
