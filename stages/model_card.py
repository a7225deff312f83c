"""The model card that travels in an archive: Hugging Face's metadata block, then a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from handlers.fusion import Fusion
from stages.presets import Preset
from stages.variants import TORCH

_PAGE = """\
# {name} {version}

Sorts a post into one of {count} classes, with calibrated probabilities (`fusion.json`). {parts}

## Data
{data} (sha256 of the content `{digest}`). {train} posts to train, {validation} to validate and calibrate, both of its
training split; {test} of its test split for the figures below.

## Results
On the test split, with 95% bootstrap intervals where one was computed:

| | PyTorch variant | 95% interval | baseline |
| --- | --- | --- | --- |
{figures}

The baseline is another model, TF-IDF and a linear support vector machine. `ece` is the expected calibration error,
`top3` the share of posts whose class is among the three most probable, `fast_share` the share that the linear part
answers alone, `answered` the share on which the model does not abstain, `answered_precision` the share of right ones
among those. Less the baseline, paired: {gain}.

{own}

Probabilities are calibrated on the validation split; the expected calibration error of the PyTorch variant's is
{ece:.4f}. `calibration.json` has its reliability bins, and its risk at each coverage: the share of wrong answers among
the surest.

## Intended use
Routing, tagging and research on texts that resemble the training data: its language, one topic, a sentence to a few
pages.
A person should be able to correct what it decides.

## Limits
- It knows its {count} classes only and names one of them, however foreign the text. {abstention}
- {bias}
- The transformer reads only the beginning of a long post (an answer says `truncated`){rest}.
- Not for decisions about people, such as moderation without review.

## Classes
{classes}
"""

_TORCH = "This archive is the PyTorch variant."
_ONNX = (
    "This archive is another variant, of accuracy {accuracy:.4f} and macro-F1 {macro_f1:.4f}; {agreement:.2%} of its\n"
    "answers are those of the PyTorch one. Nothing else was measured of it, and no interval."
)
NEWSGROUPS = "20 Newsgroups"
_BIAS = (
    "The posts date from 1993: names, products and language have moved on since, and the authors were no cross-section "
    "of any population."
)
_OWN_BIAS = "What the training posts leave out or get wrong, it leaves out and gets wrong: only their owner knows."


def corpus_name(corpus: dict[str, Any]) -> str:
    """What the posts are called. corpus: of `source.json`."""
    return NEWSGROUPS if is_public(corpus) else corpus["version"]


def is_public(corpus: dict[str, Any]) -> bool:
    """Whether the posts are the public corpus, not somebody's own, whatever they call it. corpus: of `source.json`."""
    return corpus["source"] != "files"


def model_card(
    name: str,
    version: str,
    labels: Sequence[str],
    encoder: Preset,
    fusion: Fusion,
    facts: dict[str, Any],
    posts: dict[str, int],
    scores: dict[str, Any],
    own: dict[str, float],
    calibration: dict[str, Any],
) -> str:
    """The card as Markdown (format: https://huggingface.co/docs/hub/model-cards).

    encoder: the checkpoint that was fine-tuned. fusion: of the bundle. facts: `source.json` of the fetch stage. posts:
    how many of each split were used. scores: `quality.json`. own: accuracy, macro_f1 and agreement of the variant that
    is called `name`. calibration: `calibration.json`.
    """
    test, baseline = scores["selected"]["test"], scores["baseline"]["test"]
    corpus, checkpoint = facts["corpus"], facts["checkpoints"][scores["selected"]["name"]]
    data = corpus_name(corpus)
    public = is_public(corpus)
    agreement = {"type": "agreement", "name": "answers that are the PyTorch variant's", "value": own["agreement"]}
    metadata = {
        **({"language": "en", "datasets": ["20newsgroups"]} if public else {}),
        "license": encoder.licence,
        "base_model": encoder.repository,
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "torchserve"],
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"type": "20newsgroups" if public else "own", "name": data, "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "value": own["accuracy"]},
                            {"type": "f1", "name": "macro-F1", "value": own["macro_f1"]},
                            *([] if name == TORCH else [agreement]),
                        ],
                    }
                ],
            }
        ],
    }
    page = _PAGE.format(
        name=name,
        version=version,
        count=len(labels),
        parts=_parts(fusion, f"`{encoder.repository}` (from {checkpoint['version']})"),
        rest="; the linear part reads all of it" if fusion.wide else ", and nothing reads the rest",
        data=f"{data}, split by date, from {corpus['version']}; the corpus states no licence of its own"
        if public
        else data,
        bias=_BIAS if public else _OWN_BIAS,
        digest=corpus["content_sha256"],
        **posts,
        figures=_figures(test, baseline),
        gain=_gain(scores["selected"]["over_baseline"]),
        own=_TORCH if name == TORCH else _ONNX.format(**own),
        ece=calibration["ece"],
        abstention=_abstention(fusion),
        classes="\n".join(f"- {label}" for label in labels),
    )
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n{page}"


def _parts(fusion: Fusion, encoder: str) -> str:
    if not fusion.wide:
        return f"It is a fine-tuned {encoder}."
    alone = "" if fusion.margin is None else "; where the linear model is sure enough, it may answer alone"
    return f"A fine-tuned {encoder} and a linear model over TF-IDF are fused{alone}."


def _figures(test: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Rows of a table: every figure, its interval (under its name with `_95`), and the baseline's where it is known."""
    rows = []
    for name, value in test.items():
        if name.endswith("_95"):
            continue
        # None where it abstains from every post: of no answers there is no share that is right.
        figure = "" if value is None else f"{value:.4f}"
        interval = " to ".join(f"{bound:.4f}" for bound in test.get(f"{name}_95", ()))
        compared = f"{baseline[name]:.4f}" if name in baseline else ""
        rows.append(f"| {name} | {figure} | {interval} | {compared} |")
    return "\n".join(rows)


def _gain(over: dict[str, Any]) -> str:
    gains = ((name, over[name], over[f"{name}_95"]) for name in ("accuracy", "macro_f1"))
    return ", ".join(f"{value:+.4f} {name} ({low:+.4f} to {high:+.4f})" for name, value, (low, high) in gains)


def _abstention(fusion: Fusion) -> str:
    if not fusion.reject:
        return "It never abstains, unless a request sets a `threshold`."
    return f"Under a probability of {fusion.reject:.4f} it says `abstained`, unless a request sets another `threshold`."
