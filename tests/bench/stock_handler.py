"""What TorchServe's stock Hugging Face handler does for sequence classification, written out of its documentation.

https://github.com/pytorch/serve/tree/master/examples/Huggingface_Transformers: the posts of a batch are tokenised one
after another, each padded to `max_length` (150 in its set-up file), stacked, and put through the float32 model at once;
the answer is the name of the most probable class. Two differences: the weights are those of our own fine-tuned
classifier, so that the model's work is equal, and the answer carries what our load test checks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from handlers.cores import threads_each
from handlers.model import Classifier

MAX_LENGTH = 150


class StockHandler:
    """The four steps that every handler of TorchServe has by default."""

    def initialize(self, context: Any) -> None:
        """Load model and tokenizer of the archive."""
        folder = Path(context.system_properties["model_dir"])
        # By default as many as there are cores, unless the environment says otherwise: written down, as ours is.
        torch.set_num_threads(threads_each(context.model_yaml_config["maxWorkers"]))
        gpu = context.system_properties.get("gpu_id")
        self.device = f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu"
        self.model = Classifier.load(folder).to(self.device)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(self.model.config.pad_id)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One JSON body a row."""
        answers = self.postprocess(self.inference(*self.preprocess(data)))
        for idx in range(len(data)):
            context.set_response_content_type(idx, "application/json")
        return answers

    def preprocess(self, requests: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask [batch, MAX_LENGTH]."""
        ids, masks = [], []
        for request in requests:
            body = request.get("data") or request.get("body")
            text = body["text"] if isinstance(body, dict) else bytes(body).decode("utf-8")
            inputs = self.tokenizer(
                text,
                max_length=MAX_LENGTH,
                padding="max_length",
                truncation=True,
                add_special_tokens=True,
                return_tensors="pt",
            )
            ids.append(inputs["input_ids"])
            masks.append(inputs["attention_mask"])
        return torch.cat(ids), torch.cat(masks)

    def inference(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes]."""
        with torch.inference_mode():
            return self.model(input_ids.to(self.device), attention_mask.to(self.device))

    def postprocess(self, logits: torch.Tensor) -> list[str]:
        """The most probable class of each row, and what the load test checks."""
        labels, answers = self.model.config.labels, []
        for row in logits.softmax(-1).tolist():
            ranked = dict(zip(labels, row, strict=True))
            label = max(ranked, key=ranked.__getitem__)
            model = {"name": "stock", "version": "1.0"}
            answers.append(json.dumps({"label": label, "probabilities": ranked, "model": model}))
        return answers
