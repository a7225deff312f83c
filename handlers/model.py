"""The deep part: a pre-trained encoder, pooling over its tokens and a dense head, saved without pickle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from handlers.config import ModelConfig

WEIGHTS_FILE = "model.safetensors"

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class Pooling(nn.Module):
    """Token vectors [batch, tokens, width] to one vector a post [batch, width]; padding never counts."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            self.score = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "cls":
            return hidden[:, 0]
        if self.kind == "mean":
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(1) / weights.sum(1)
        scores = self.score(hidden).squeeze(-1).masked_fill(mask == 0, float("-inf"))
        return torch.einsum("bt,btw->bw", scores.softmax(-1).to(hidden.dtype), hidden)


def build_head(width: int, config: ModelConfig) -> nn.Sequential:
    """Dense layers, each with activation and dropout and if asked a norm before them, and a last one to the classes."""
    layers: list[nn.Module] = []
    for size in config.head:
        layers.append(nn.Linear(width, size))
        if config.head_norm:
            layers.append(nn.LayerNorm(size))
        layers += [_ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, len(config.labels)))


class Classifier(nn.Module):
    """Encoder + pooling + head. `forward` returns logits [batch, classes]."""

    def __init__(self, config: ModelConfig, encoder: PreTrainedModel | None = None) -> None:
        """`encoder` brings pre-trained weights; without it the shape is built and weights are loaded afterwards."""
        super().__init__()
        self.config = config
        if encoder is None:
            fields = dict(config.encoder)
            # The pooler of BERT's checkpoints is a layer that mean pooling never reads: not built, not shipped.
            shape = AutoConfig.for_model(fields.pop("model_type"), **fields)
            encoder = AutoModel.from_config(shape, **pooler_off(shape.model_type))
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.pooling = Pooling(config.pooling, width)
        self.head = build_head(width, config)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled vectors [batch, width] of token ids [batch, tokens]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.pooling(hidden, attention_mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.features(input_ids, attention_mask))

    def attentions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Attention probabilities [layers, batch, heads, tokens, tokens]."""
        # Fused kernels never materialise them.
        with plain_attention(self.encoder):
            output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_attentions=True)
        return torch.stack(output.attentions)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`."""
        self.config.save(folder)
        save_model(self, str(folder / WEIGHTS_FILE))

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Read what `save` wrote, in evaluation mode. Raises FileNotFoundError where a file is missing."""
        model = cls(ModelConfig.load(folder))
        load_model(model, str(folder / WEIGHTS_FILE))
        return model.eval()


@contextlib.contextmanager
def plain_attention(encoder: PreTrainedModel) -> Iterator[None]:
    """Within it, `encoder` computes attention as products and a softmax, without a fused kernel."""
    usual = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(usual)


def avoid_planned_attention() -> None:
    """Let this process do without cuDNN's attention, which on a GPU computes in fp16 and bf16.

    It plans anew for every shape, and each batch has another: without it 159 training steps of MiniLM on an H200 took
    2.5 s in place of 5.4.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def pooler_off(model_type: str) -> dict[str, bool]:
    """The keyword that leaves out the pooler, for the families that have one."""
    return {"add_pooling_layer": False} if model_type in {"bert", "roberta", "mpnet"} else {}
