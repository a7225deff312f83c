"""One explanation of the tiny model, and a model that one can explain by hand; for the tests of the explain stage.

A test file gets the fixtures by naming them, as in `explanation = explanations.explanation`.
"""

from __future__ import annotations

import numpy as np
import pytest

from handlers.predictor import Predictor
from stages.explanation import Effort, Explanation, explain_text
from tests.conftest import LABELS, answer_probabilities

TEXT = "The CAR has a new engine; oil & <brakes>, and the car?"
EFFORT = Effort(samples=60, steps=12, seed=0)


@pytest.fixture(scope="module")
def explanation(predictor: Predictor) -> Explanation:
    """Of the predicted class and, told that it is another one, of the actual class."""
    predicted = int(answer_probabilities(predictor, [TEXT], fast_path=False)[0].argmax())
    return explain_text(predictor, TEXT, EFFORT, actual=(predicted + 1) % len(LABELS))


def car_score(texts: list[str]) -> np.ndarray:
    """A model that one can explain by hand: each `car` adds 0.2 and each `moon` takes 0.1; its second class doubles."""
    score = np.array([0.3 + 0.2 * text.split().count("car") - 0.1 * text.split().count("moon") for text in texts])
    return np.stack([score, 2 * score], axis=1)


WORDS = ["the", "car", "near", "the", "moon", "is", "a", "car"]
TRUE = np.array([0, 0.2, 0, 0, -0.1, 0, 0, 0.2])
