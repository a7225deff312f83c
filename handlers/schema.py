"""What a worker's replies look like, and what may be asked of it, as JSON Schema (draft 2020-12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.explaining import DEFAULT, METHODS
from handlers.requests import TENSOR_TYPES

# Lies beside the model in its archive: where everything in it came from.
PROVENANCE_FILE = "provenance.json"
# And what its probabilities are worth.
CALIBRATION_FILE = "calibration.json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def reply_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The body of every reply to a prediction or an explanation, refusals included.

    It is one of `$defs`: an `answer` to one post, `answers` to a list, `predictions` to KServe's instances, `tensors`
    to an Open Inference Protocol request, and an `error` with any other status than 200, or what TorchServe's
    `front_end` says where a request does not reach the model.
    """
    label = {"enum": list(labels)}
    answer = _object(
        {
            "label": label
            | {"description": "the most probable class; named even where the answer abstains, so look at abstained"},
            "probabilities": {
                "description": "calibrated, the most probable first; top_k of them",
                "type": "object",
                "propertyNames": label,
                "additionalProperties": _SHARE,
                "minProperties": 1,
            },
            "abstained": {
                "description": "whether the label's probability is under the threshold: too unsure to be relied on",
                "type": "boolean",
            },
            "path": {
                "description": "linear: the linear part was sure and answered alone; full: with the transformer",
                "enum": ["linear", "full"],
            },
            "windows": {"description": "passages the transformer read", "enum": [0, 1]},
            "tokens": {"description": "tokens the transformer read", "type": "integer", "minimum": 0},
            "truncated": {
                "description": "whether the post was longer than that window, so false on the linear path; the linear "
                "part reads all of every post",
                "type": "boolean",
            },
            "model": _object({"name": {"type": "string"}, "version": {"type": "string"}}),
            "explanation": {"$ref": "#/$defs/explanation"},
        },
        optional=("explanation",),
    )
    shown = {"description": "its beginning, where it is very long", "type": "string"}
    word = _object({"position": {"type": "integer", "minimum": 0}, "word": shown, "value": _number()})
    explanation = _object(
        {
            "method": {"enum": list(METHODS)},
            "contributions": {
                "description": "what words of the cleaned post add to the label's log score (linear) or log-odds (the "
                "other methods) in the full model; the largest first, with their position, counted from 0",
                "type": "array",
                "items": word,
            },
            "rest": _number() | {"description": "sum of the words that are not listed"},
        }
    )
    several = {"type": "array", "items": {"$ref": "#/$defs/answer"}, "minItems": 1}
    tensor = _object(
        {
            "name": {"enum": list(TENSOR_TYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2},
            "datatype": {"enum": sorted(set(TENSOR_TYPES.values()))},
            "data": {"type": "array", "minItems": 1},
        }
    )
    text = {"type": "string"}
    kinds = {
        "answer": answer,
        "answers": several,
        "predictions": _object({"predictions": several}),
        "tensors": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "outputs": {"type": "array", "items": tensor, "minItems": 1},
            },
            optional=("id",),
        ),
        "error": _object(
            {
                "code": {"enum": [400, 413, 415, 422, 500]},
                "reason": text,
                "field": text,
                "mend": text,
                "error": text | {"description": "the others in one string, where the posts came as tensors"},
            },
            optional=("error",),
        ),
        "front_end": _object({"code": {"type": "integer", "minimum": 400}, "type": text, "message": text})
        | {
            "description": "from TorchServe itself: 400 for a key that is missing or wrong, 404 for a model that is "
            "not served, 503 where the queue is full, 500 or 507 where a worker ended (a body over the limit of bytes "
            "gets a 413 without a word, or its connection is closed)"
        },
    }
    return {
        "$schema": DRAFT,
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
        "$defs": kinds | {"explanation": explanation},
    }


def option_schema(threshold: float, fast_path: bool, passes: int) -> dict[str, Any]:
    """What may stand beside the posts of a request. threshold, fast_path: what holds where a request says nothing.
    passes: that the explanations of a request may take."""
    return {
        "$schema": DRAFT,
        "type": "object",
        "properties": {
            "top_k": {"description": "labels an answer; all by default", "type": "integer", "minimum": 1},
            "threshold": _SHARE
            | {"description": "answers with a lower probability abstain; 0 for never", "default": threshold},
            "fast_path": {
                "description": "off asks the transformer about every post",
                "enum": ["on", "off"],
                "default": "on" if fast_path else "off",
            },
            "method": {"description": "of an explanation", "enum": list(METHODS), "default": DEFAULT},
            "budget": {
                "description": "passes through the transformer that the explanation of one post may take; by default, "
                "and at most, this maximum divided by the number of posts",
                "type": "integer",
                "minimum": 0,
                "maximum": passes,
            },
        },
    }


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object of these keys and no other, all required but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _number() -> dict[str, Any]:
    return {"type": "number"}
