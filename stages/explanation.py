"""One post explained by every method, word by word, and what each method cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from handlers import explaining
from handlers.explaining import log_odds, words_read
from handlers.predictor import Predictor
from stages import attribution
from stages.attention import Attention, attention
from stages.stage import StageError

METHODS = {
    "lime": "LIME",
    "shap": "SHAP",
    "ig": "Integrated gradients",
    "occlusion": "Occlusion by word",
    "spans": f"Occlusion by {explaining.SPANS['spans']} words",
    "linear": "Linear part (exact)",
    "attention": "Attention, last layer",
    "rollout": "Attention rollout",
}
# They say where the transformer looked, not for or against what; and they are the same for every class.
UNSIGNED = ("attention", "rollout")


@dataclass(frozen=True)
class Effort:
    """samples: texts scored by LIME and by SHAP, each. steps: of integrated gradients. seed: of what is drawn."""

    samples: int
    steps: int
    seed: int


class Scorer:
    """Log-probabilities of texts made from the words of one post that the transformer reads; counts the texts.

    What the transformer does not read, `tail`, stays in place for the linear part. With all words they are those of the
    answer that ships, where the transformer has a part in it. Spaces left around a removed word do not count.
    """

    def __init__(self, predictor: Predictor, tail: Sequence[str]) -> None:
        self.predictor = predictor
        self.tail = " ".join(tail)
        self.texts = 0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Logarithms of probabilities [texts, classes]."""
        self.texts += len(texts)
        # As cleaning would leave them: in byte-level vocabularies a second space is a token of its own.
        texts = [" ".join(text.split()) for text in texts]
        predictor = self.predictor
        logits = predictor.logits([item.ids for item in predictor.encoder(texts)])
        wide = predictor.linear.scores([f"{text} {self.tail}" for text in texts])
        return predictor.fusion.log_full(predictor.fusion.joint(logits, wide))

    def odds(self, labels: Sequence[int]) -> attribution.Score:
        """The same as log-odds of some classes: a function from texts to [texts, labels]."""

        def score(texts: Sequence[str]) -> np.ndarray:
            logs = self(texts)
            return np.stack([log_odds(logs, label) for label in labels], axis=1)

        return score


@dataclass(frozen=True)
class Explanation:
    """Why the full model, transformer and linear part together, gives a post its probabilities.

    words: of the cleaned post, those that the transformer reads; tail: those behind, read by the linear part alone.
    probabilities: [classes]. path: who answers this post as shipped, "linear" or "full".
    attributions: by class, then by method: [words]. The first class is the predicted one; the actual one, where it is
    known and another, follows. seconds, texts: by method, of all classes together; texts are what was scored.
    """

    words: list[str]
    tail: list[str]
    probabilities: np.ndarray
    path: str
    attributions: dict[int, dict[str, np.ndarray]]
    seconds: dict[str, float]
    texts: dict[str, int]
    attended: Attention

    @property
    def predicted(self) -> int:
        """The class with the highest probability."""
        return next(iter(self.attributions))


def explain_text(predictor: Predictor, text: str, effort: Effort, actual: int | None = None) -> Explanation:
    """Explain the full model's answer to a raw post by all METHODS.

    Raises StageError where cleaning leaves no word.
    """
    every = predictor.cleaning(text).split()
    if not every:
        raise StageError("cleaning leaves no word of the post: there is nothing to explain, give more text")
    read = words_read(predictor, every)
    words, tail = every[:read], every[read:]
    probabilities = np.exp(Scorer(predictor, tail)([" ".join(words)]))[0]
    predicted = int(probabilities.argmax())
    labels = [predicted] if actual in (None, predicted) else [predicted, actual]
    values, seconds, texts = attribute(predictor, words, tail, labels, effort)
    started = time.perf_counter()
    attended = attention(predictor, words)
    # One pass gives both, and the second costs next to nothing on top of it.
    seconds |= dict.fromkeys(UNSIGNED, time.perf_counter() - started)
    return Explanation(
        words=words,
        tail=tail,
        probabilities=probabilities,
        path=predictor.predict([text])[0].path,
        attributions={
            label: {name: rows[i] for name, rows in values.items()} | attended.by_method
            for i, label in enumerate(labels)
        },
        seconds=seconds,
        texts=texts | dict.fromkeys(UNSIGNED, 1),
        attended=attended,
    )


def attribute(
    predictor: Predictor, words: Sequence[str], tail: Sequence[str], labels: Sequence[int], effort: Effort
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, int]]:
    """All methods that depend on the class: their values [labels, words], their seconds and the texts they scored.

    The texts of LIME, SHAP and occlusion serve all classes; only gradients run backwards once for each.
    """
    scorer = Scorer(predictor, tail)
    odds = scorer.odds(labels)
    values, seconds, texts = {}, {}, {}

    def timed(method: str, work: Callable[[], np.ndarray], scored: int | None = None) -> None:
        before, started = scorer.texts, time.perf_counter()
        values[method] = work()
        seconds[method] = time.perf_counter() - started
        texts[method] = scorer.texts - before if scored is None else scored

    def shipped(method: str) -> np.ndarray:
        served = explaining.contributions(predictor, [*words, *tail], len(words), labels, method, len(words) + 1)
        return served[:, : len(words)]

    timed("lime", lambda: attribution.lime(odds, words, len(labels), effort.samples, effort.seed))
    timed("shap", lambda: attribution.shap_values(odds, words, effort.samples))
    timed("ig", lambda: attribution.integrated_gradients(predictor, words, tail, labels, effort.steps), effort.steps)
    for method, length in explaining.SPANS.items():
        timed(method, lambda method=method: shipped(method), 1 - (-len(words) // length))
    timed("linear", lambda: shipped("linear"), 0)
    return values, seconds, texts


def best_words(words: Sequence[str], values: np.ndarray, top: int) -> list[tuple[str, float]]:
    """The words of largest size and their values, the largest first."""
    order = np.argsort(-np.abs(values), kind="stable")[:top]
    return [(words[i], float(values[i])) for i in order]
