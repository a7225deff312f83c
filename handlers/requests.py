"""What a client may send and how its answers go back: pure functions of a body and its headers, no server, no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.bodies import HOW, decode, document
from handlers.errors import RequestError
from handlers.explaining import DEFAULT, METHODS
from handlers.text import normalized

# Of a request's body, over which the front end refuses it; max_request_size of serve/config.properties.
MAX_BYTES = 4_194_304
# All are per request and bound what one batch can cost, so that no batch outlives the server's response timeout.
MAX_CHARACTERS = 1_000_000
MAX_POSTS = 64
# Passes through the transformer that the explanations of one request may take, and more where the transformer reads
# longer posts (`most_passes`).
MAX_PASSES = 160

# Characters of what an answer repeats of its request: the front end takes no answer of more than six megabytes, and
# ends the worker that gives one.
MAX_REPEATED = 200

# Where the server puts a body, and what the field of a form may be called.
BODY_KEYS = ("body", "data", "text")
EXPLAIN_OPTIONS = ("method", "budget")
OPTIONS = ("top_k", "threshold", "fast_path", *EXPLAIN_OPTIONS)

# How the posts came decides how their answers go back.
SINGLE, LIST, INSTANCES, TENSORS = "single", "list", "instances", "tensors"

# The output tensors of an Open Inference Protocol answer, one value a post; of labels and probabilities a row of them,
# the most probable first.
TENSOR_TYPES = {
    "label": "BYTES",
    "labels": "BYTES",
    "probabilities": "FP64",
    "abstained": "BOOL",
    "path": "BYTES",
    "windows": "INT64",
    "tokens": "INT64",
    "truncated": "BOOL",
}


@dataclass(frozen=True)
class Request:
    """One parsed request: raw posts, the form they came in, and what is asked of them.

    top_k: labels wanted an answer, None for all. threshold: the probability under which an answer abstains, None for
    the model's own. fast_path: whether the wide part may answer alone. explain: word contributions wanted, by `method`,
    with at most `budget` passes through the transformer a post. identity: the client's own id of an Open Inference
    Protocol request. outputs: the tensors that it asks for, None for all.
    """

    posts: tuple[str, ...]
    form: str
    top_k: int | None = None
    threshold: float | None = None
    fast_path: bool = True
    explain: bool = False
    method: str = DEFAULT
    budget: int = MAX_PASSES
    identity: str | None = None
    outputs: tuple[str, ...] | None = None

    def wrap(self, answers: Sequence[dict[str, Any]], model: Mapping[str, str]) -> Any:
        """The answers to `posts`, in the form in which those came."""
        if self.form == SINGLE:
            return answers[0]
        if self.form == LIST:
            return list(answers)
        if self.form == INSTANCES:
            return {"predictions": list(answers)}
        identity = {} if self.identity is None else {"id": self.identity}
        names = TENSOR_TYPES if self.outputs is None else self.outputs
        return {
            "model_name": model["name"],
            "model_version": model["version"],
            **identity,
            "outputs": [_tensor(name, answers) for name in names],
        }


def most_passes(max_tokens: int) -> int:
    """Passes that the explanations of one request may take, of a transformer that reads so many tokens: at least those
    of one post as long as that, word by word."""
    return max(MAX_PASSES, max_tokens + 1)


def parse(row: Mapping[str, Any], headers: Mapping[str, Any], passes: int = MAX_PASSES) -> Request:
    """Read one row of a TorchServe batch.

    row: the body, or the fields of a form, by name; bytes, or what the server made of them by their content type.
    headers: request headers, and under a field's name its content type. passes: that its explanations may take. Raises
    RequestError.
    """
    present = [key for key in BODY_KEYS if key in row]
    if not present:
        raise RequestError(400, "the request holds no post", "body", HOW)
    if len(present) > 1:
        raise RequestError(422, "the form holds more than one post", present[1], f"send one of {', '.join(BODY_KEYS)}")
    [key] = present
    _known(row, (key, *OPTIONS), "")
    # (Of a query string the server hands on nothing.)
    options = {name: _option(row[name], name) for name in OPTIONS if name in row}
    body = document(row, headers, key)
    try:
        return _from_body(body, key, options, headers.get("explain") == "True", passes)
    except RequestError as error:
        error.tensors = isinstance(body, dict) and "inputs" in body
        raise


def _from_body(body: Any, key: str, options: dict[str, Any], explain: bool, passes: int) -> Request:
    """The request that a body is, with the options of a form beside it."""
    more: dict[str, Any] = {}
    if isinstance(body, dict):
        posts, form, inner, more = _from_object(body)
        options = options | inner
    else:
        form = LIST if isinstance(body, list) else SINGLE
        posts = _posts(body, key)
    if explain and form == TENSORS:
        raise RequestError(422, "explanations have no tensor form", "inputs", 'send {"text": "..."} instead')
    # Shared by the posts, so that several of them cost no more than one.
    return Request(posts, form, explain=explain, **_options(options, passes // len(posts), explain), **more)


def _from_object(document: dict[str, Any]) -> tuple[tuple[str, ...], str, dict[str, Any], dict[str, Any]]:
    """Posts, form and options of a JSON object, and what only an Open Inference Protocol request has."""
    present = [key for key in ("text", "data", "instances", "inputs") if key in document]
    if len(present) != 1:
        reason = "the object holds no post" if not present else "the object holds posts under more than one key"
        raise RequestError(422, reason, "body", "send exactly one of text, data, instances and inputs")
    key = present[0]
    others = {name: value for name, value in document.items() if name != key}
    if key == "inputs":
        _known(others, ("id", "parameters", "outputs"), "")
        identity, parameters = others.get("id"), _parameters(others, "")
        if not isinstance(identity, str | None) or len(identity or "") > MAX_REPEATED:
            mend = f"send a string of at most {MAX_REPEATED} characters, or leave it out"
            raise RequestError(422, "the id is not a short string", "id", mend)
        parameters = _no_binary(parameters, "binary_data_output", "parameters.")
        _known(parameters, OPTIONS, "parameters.")
        more = {"identity": identity, "outputs": _outputs(others.get("outputs"))}
        return _from_tensors(document[key]), TENSORS, parameters, more
    _known(others, OPTIONS, "")
    if key == "instances":
        if not isinstance(document[key], list):
            raise RequestError(422, "the instances are not a list", key, 'send {"instances": ["...", "..."]}')
        return _posts(document[key], key), INSTANCES, others, {}
    return _posts(document[key], key), LIST if isinstance(document[key], list) else SINGLE, others, {}


def _from_tensors(inputs: Any) -> tuple[str, ...]:
    """Posts of an Open Inference Protocol request (https://github.com/kserve/open-inference-protocol)."""
    mend = 'send one tensor: {"name": "text", "shape": [n], "datatype": "BYTES", "data": ["...", "..."]}'
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise RequestError(422, "the inputs are not a list of one tensor", "inputs", mend)
    tensor = inputs[0]
    _known(tensor, ("name", "shape", "datatype", "data", "parameters"), "inputs[0].")
    # Others are the client's own hints, such as MLServer's content_type.
    if misplaced := sorted(_parameters(tensor, "inputs[0].").keys() & set(OPTIONS)):
        field = f"inputs[0].parameters.{misplaced[0]}"
        raise RequestError(422, "the option is of the request", field, "send it in the request's own parameters")
    if tensor.get("datatype") != "BYTES":
        raise RequestError(422, "the tensor's datatype is not BYTES", "inputs[0].datatype", mend)
    data = tensor.get("data")
    if not isinstance(data, list):
        raise RequestError(422, "the tensor's data is not a list", "inputs[0].data", mend)
    if tensor.get("shape") not in ([len(data)], [len(data), 1]):
        raise RequestError(422, "the tensor's shape does not fit its data", "inputs[0].shape", mend)
    # The protocol lets a matrix come row by row, too.
    if tensor["shape"] == [len(data), 1] and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    return _posts(data, "inputs[0].data")


def _outputs(wanted: Any) -> tuple[str, ...] | None:
    """Names of the tensors that an Open Inference Protocol request asks for, None for all."""
    if wanted is None:
        return None
    mend = f'send [{{"name": "label"}}], or leave it out for all; known here: {", ".join(TENSOR_TYPES)}'
    if not (isinstance(wanted, list) and wanted and all(isinstance(item, dict) for item in wanted)):
        raise RequestError(422, "the outputs are not a list of named tensors", "outputs", mend)
    for i, item in enumerate(wanted):
        _known(item, ("name", "parameters"), f"outputs[{i}].")
        parameters = _parameters(item, f"outputs[{i}].")
        _known(_no_binary(parameters, "binary_data", f"outputs[{i}].parameters."), (), f"outputs[{i}].parameters.")
        if not (isinstance(item.get("name"), str) and item["name"] in TENSOR_TYPES):
            raise RequestError(422, "the output is not known", f"outputs[{i}].name", mend)
    names = tuple(item["name"] for item in wanted)
    if len(set(names)) < len(names):
        raise RequestError(422, "an output is named twice", "outputs", "name each output once")
    return names


def _parameters(holder: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The parameters of a request or of a tensor, none where they are null. Raises RequestError."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        mend = "send an object, or leave them out"
        raise RequestError(422, "the parameters are not an object", f"{prefix}parameters", mend)
    return parameters


def _no_binary(parameters: Mapping[str, Any], name: str, prefix: str) -> dict[str, Any]:
    """The parameters but the one that asks for binary tensors. Raises RequestError where it does ask for them."""
    if parameters.get(name) not in (None, False):
        mend = f"send {name} false, or leave it out: tensors are answered as JSON"
        raise RequestError(422, "binary tensors are not answered", f"{prefix}{name}", mend)
    return {other: value for other, value in parameters.items() if other != name}


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


def _options(options: Mapping[str, Any], most: int, explain: bool) -> dict[str, Any]:
    """Fields of a Request from options as they were sent; null is the same as left out. most: passes a post."""
    options = {name: value for name, value in options.items() if value is not None}
    if not explain:
        for name in EXPLAIN_OPTIONS:
            if name in options:
                raise RequestError(422, "the option is one of explanations", name, "ask /explanations, or leave it out")
    tests: dict[str, tuple[Callable[[Any], bool], str]] = {
        "top_k": (lambda value: type(value) is int and value >= 1, "send 1 or more, or leave it out for all"),
        "threshold": (
            lambda value: type(value) in (int, float) and 0 <= value <= 1,
            "send a probability from 0 to 1, or leave it out for the model's own",
        ),
        "fast_path": (lambda value: value in ("on", "off"), 'send "on" or "off"'),
        "method": (lambda value: value in METHODS, f"send one of {', '.join(METHODS)}"),
        "budget": (lambda value: type(value) is int and 0 <= value <= most, f"send 0 to {most} passes a post"),
    }
    for name, (test, mend) in tests.items():
        if name in options and not test(options[name]):
            raise RequestError(422, f"{name} has a value that is not allowed", name, mend)
    return {"budget": most, **options, "fast_path": options.get("fast_path", "on") == "on"}


def _option(value: Any, field: str) -> Any:
    """A form's field as JSON would have it: text, unless it was declared as JSON, which the server has parsed."""
    if not isinstance(value, str | bytes | bytearray):
        return value
    text = decode(value, None, field)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _known(values: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Refuse a key that would otherwise be accepted and ignored."""
    if unknown := sorted(values.keys() - set(known)):
        key = f"{prefix}{unknown[0]}"[:MAX_REPEATED]
        raise RequestError(422, "the key is not known", key, f"known here: {', '.join(known)}")


def _tensor(name: str, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One output tensor, row by row."""
    shape = [len(answers)]
    if name in ("labels", "probabilities"):
        rows = [answer["probabilities"] for answer in answers]
        data = [item for row in rows for item in (row if name == "labels" else row.values())]
        shape.append(len(rows[0]))
    else:
        data = [answer[name] for answer in answers]
    return {"name": name, "shape": shape, "datatype": TENSOR_TYPES[name], "data": data}
