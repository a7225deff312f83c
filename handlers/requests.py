"""What a client may send and what it gets back: pure functions of a body and its headers, no server and no model."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from email.message import Message
from typing import Any

from handlers.text import normalized

# Both are per request and bound what one batch can cost, so that no batch outlives the server's response timeout.
MAX_CHARACTERS = 1_000_000
MAX_POSTS = 64

# Where the server puts a body, and what the field of a form may be called.
BODY_KEYS = ("body", "data", "text")
OPTIONS = ("top_k", "fast_path")

# How the posts came decides how their answers go back.
SINGLE, LIST, INSTANCES, TENSORS = "single", "list", "instances", "tensors"

_PLAIN_TYPES = ("", "application/octet-stream", "message/rfc822")
# Python's own codecs that take quadratic time; no charset of any mail or web page.
_SLOW_CODECS = ("idna", "punycode")
_HOW = 'send the post as text/plain, as JSON {"text": "..."}, or as a form field or file named data'

ANSWER_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["label", "probabilities", "path", "tokens", "truncated", "model"],
    "properties": {
        "label": {"type": "string"},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "path": {"enum": ["linear", "full"]},
        "tokens": {"type": "integer", "minimum": 0},
        "truncated": {"type": "boolean"},
        "model": {
            "type": "object",
            "required": ["name", "version"],
            "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
        },
        "explanation": {
            "type": "object",
            "required": ["method", "contributions"],
            "properties": {
                "method": {"const": "linear"},
                "contributions": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
    },
}


@dataclass(eq=False)
class RequestError(Exception):
    """A request that gets no answer.

    code: HTTP status. reason: what is wrong. field: the part of the request. mend: what to send instead.
    """

    code: int
    reason: str
    field: str
    mend: str

    def body(self) -> dict[str, Any]:
        """The error as it is sent."""
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """One parsed request: raw posts, the form they came in, and what is asked of them.

    top_k: labels wanted an answer, None for all. fast_path: whether the wide part may answer alone. explain: word
    contributions wanted. identity: the client's own id of an Open Inference Protocol request.
    """

    posts: tuple[str, ...]
    form: str
    top_k: int | None = None
    fast_path: bool = True
    explain: bool = False
    identity: str | None = None

    def wrap(self, answers: Sequence[dict[str, Any]], model: Mapping[str, str]) -> Any:
        """The answers to `posts`, in the form in which those came."""
        if self.form == SINGLE:
            return answers[0]
        if self.form == LIST:
            return list(answers)
        if self.form == INSTANCES:
            return {"predictions": list(answers)}
        identity = {} if self.identity is None else {"id": self.identity}
        ranked = [answer["probabilities"] for answer in answers]
        shape = [len(ranked), len(ranked[0])]
        return {
            "model_name": model["name"],
            "model_version": model["version"],
            **identity,
            "outputs": [
                _tensor("label", "BYTES", shape[:1], [answer["label"] for answer in answers]),
                _tensor("labels", "BYTES", shape, [label for row in ranked for label in row]),
                _tensor("probabilities", "FP64", shape, [value for row in ranked for value in row.values()]),
            ],
        }


def parse(row: Mapping[str, Any], headers: Mapping[str, Any]) -> Request:
    """Read one row of a TorchServe batch.

    row: the body, or the fields of a form, by name; bytes, or what the server made of them by their content type.
    headers: request headers, and under a field's name its content type. Raises RequestError.
    """
    # Fields of a form come as text. (Of a query string the server hands on nothing.)
    options = {key: _number(_decode(row[key], None, key)) for key in OPTIONS if key in row}
    key = next((key for key in BODY_KEYS if key in row), None)
    if key is None:
        raise RequestError(400, "the request holds no post", "body", _HOW)
    media, charset = _content_type(key, headers)
    document = _document(row[key], media, charset, key)
    if isinstance(document, dict):
        posts, form, inner, identity = _from_object(document)
        options |= inner
    else:
        form = LIST if isinstance(document, list) else SINGLE
        posts, identity = _posts(document, key), None
    explain = headers.get("explain") == "True"
    if explain and form == TENSORS:
        raise RequestError(422, "explanations have no tensor form", "inputs", 'send {"text": "..."} instead')
    return Request(posts, form, explain=explain, identity=identity, **_options(options))


def _content_type(key: str, headers: Mapping[str, Any]) -> tuple[str, str | None]:
    """Media type, empty where none is declared, and charset of the field `key`."""
    part = headers.get(key)
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    if key == "body":
        # The server hands on the media type alone; the charset is left in the request's own header.
        names = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        declared = names.get("content-type", declared)
    if not declared:
        return "", None
    message = Message()
    message["content-type"] = declared
    return message.get_content_type(), message.get_content_charset()


def _document(value: Any, media: str, charset: str | None, field: str) -> Any:
    """A body as text, or as what its JSON says."""
    if media == "application/json":
        # The server has parsed it already, unless that failed.
        return _json(bytes(value), field) if isinstance(value, bytes | bytearray) else value
    if not (media in _PLAIN_TYPES or media.startswith("text/")):
        raise RequestError(415, "the content type is not one that holds text", field, _HOW)
    text = _decode(value, charset, field)
    # `curl -T` declares nothing, so an undeclared JSON object is taken for what it plainly is.
    if not media.startswith("text/") and text.lstrip().startswith("{"):
        try:
            return _json(text, field)
        except RequestError:
            return text
    return text


def _json(value: bytes | str, field: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON", field, 'send JSON such as {"text": "..."}') from None


def _decode(value: Any, charset: str | None, field: str) -> str:
    # The server decodes text as UTF-8 without looking at the charset: back to bytes, then as declared.
    raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
    mend = "send text in UTF-8, or name its charset in the content type"
    if not isinstance(raw, bytes | bytearray):
        raise RequestError(415, "the value is not text", field, mend)
    try:
        codec = codecs.lookup(charset or "utf-8").name
        if codec in _SLOW_CODECS:
            raise LookupError(codec)
        return bytes(raw).decode(codec)
    except (LookupError, ValueError):
        reason = "the bytes are not text in the declared charset" if charset else "the bytes are not UTF-8 text"
        raise RequestError(415, reason, field, mend) from None


def _from_object(document: dict[str, Any]) -> tuple[tuple[str, ...], str, dict[str, Any], str | None]:
    """Posts, form, options and identity of a JSON object."""
    present = [key for key in ("text", "data", "instances", "inputs") if key in document]
    if len(present) != 1:
        reason = "the object holds no post" if not present else "the object holds posts under more than one key"
        raise RequestError(422, reason, "body", "send exactly one of text, data, instances and inputs")
    key = present[0]
    others = {name: value for name, value in document.items() if name != key}
    if key == "inputs":
        _known(others, ("id", "parameters"), "")
        identity, parameters = others.get("id"), others.get("parameters", {})
        if not isinstance(identity, str | None):
            raise RequestError(422, "the id is not a string", "id", "send a string, or leave it out")
        if not isinstance(parameters, dict):
            raise RequestError(422, "the parameters are not an object", "parameters", 'send {"top_k": 3}, or nothing')
        _known(parameters, OPTIONS, "parameters.")
        return _from_tensors(document[key]), TENSORS, parameters, identity
    _known(others, OPTIONS, "")
    if key == "instances":
        if not isinstance(document[key], list):
            raise RequestError(422, "the instances are not a list", key, 'send {"instances": ["...", "..."]}')
        return _posts(document[key], key), INSTANCES, others, None
    return _posts(document[key], key), LIST if isinstance(document[key], list) else SINGLE, others, None


def _from_tensors(inputs: Any) -> tuple[str, ...]:
    """Posts of an Open Inference Protocol request (https://github.com/kserve/open-inference-protocol)."""
    mend = 'send one tensor: {"name": "text", "shape": [n], "datatype": "BYTES", "data": ["...", "..."]}'
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise RequestError(422, "the inputs are not a list of one tensor", "inputs", mend)
    tensor = inputs[0]
    _known(tensor, ("name", "shape", "datatype", "data", "parameters"), "inputs[0].")
    if tensor.get("datatype") != "BYTES":
        raise RequestError(422, "the tensor's datatype is not BYTES", "inputs[0].datatype", mend)
    data = tensor.get("data")
    if not isinstance(data, list):
        raise RequestError(422, "the tensor's data is not a list", "inputs[0].data", mend)
    if tensor.get("shape") not in ([len(data)], [len(data), 1]):
        raise RequestError(422, "the tensor's shape does not fit its data", "inputs[0].shape", mend)
    return _posts(data, "inputs[0].data")


def _posts(value: Any, field: str) -> tuple[str, ...]:
    """One post or a list of them, each usable and together within the limits."""
    several = isinstance(value, list)
    items = value if several else [value]
    if not items:
        raise RequestError(422, "the list is empty", field, "send at least one post")
    if len(items) > MAX_POSTS:
        raise RequestError(413, f"there are more than {MAX_POSTS} posts", field, "send them in several requests")
    posts = tuple(_post(item, f"{field}[{i}]" if several else field) for i, item in enumerate(items))
    # Counted as the model reads them too: one character can stand for eighteen.
    if sum(map(len, posts)) > MAX_CHARACTERS or sum(len(normalized(post)) for post in posts) > MAX_CHARACTERS:
        mend = "send a shorter post, or fewer of them; only the beginning of a long post is read by the transformer"
        raise RequestError(413, f"there are more than {MAX_CHARACTERS} characters", field, mend)
    return posts


def _post(item: Any, field: str) -> str:
    if isinstance(item, dict):
        # A list may hold objects, the way KServe's instances usually do.
        key = next((key for key in ("text", "data") if key in item), "text")
        _known(item, (key,), f"{field}.")
        item, field = item.get(key), f"{field}.{key}"
    if not isinstance(item, str):
        raise RequestError(422, "a post is not a string", field, "send each post as a string")
    if not any(map(str.isalpha, item)):
        raise RequestError(
            422, "a post holds no letter, so there is nothing to classify", field, "send a post of words"
        )
    # JSON can carry half a surrogate pair (an emoji cut in two), which no tokenizer takes.
    return item.encode("utf-8", "replace").decode("utf-8")


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Request from options as they were sent."""
    top_k, fast_path = options.get("top_k"), options.get("fast_path", "on")
    if top_k is not None and not (type(top_k) is int and top_k >= 1):
        raise RequestError(422, "top_k is not a positive integer", "top_k", "send 1 or more, or leave it out for all")
    if fast_path not in ("on", "off"):
        raise RequestError(422, "fast_path is neither on nor off", "fast_path", 'send "on" or "off"')
    return {"top_k": top_k, "fast_path": fast_path == "on"}


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _known(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Refuse a key that would otherwise be accepted and ignored."""
    if unknown := sorted(values.keys() - set(known)):
        raise RequestError(422, "the key is not known", prefix + unknown[0], f"known here: {', '.join(known)}")


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}
