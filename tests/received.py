"""Rows as TorchServe's worker hands them over, and what is refused; for the tests of requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handlers.errors import RequestError
from handlers.requests import parse

JSON = "application/json"
# Parameters of a content type from which no charset can be read.
UNREADABLE = ("charset*=%00''x", "charset*=a; charset*0=b", "charset*" + "9" * 5000 + "=b")


def received(
    value: Any, media: str = "", key: str = "body", header: str | None = None, explain: bool = False, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row and its headers, the way TorchServe's worker hands them over."""
    content_type = {} if header is None else {"Content-Type": header}
    return {**more, key: value}, {key: {"content-type": media}} | content_type | (
        {"explain": "True"} if explain else {}
    )


def refusal(*arguments: Any, **more: Any) -> RequestError:
    """The error of what `received` makes of the arguments; it says everything that an error must."""
    with pytest.raises(RequestError) as caught:
        parse(*received(*arguments, **more))
    assert set(caught.value.body()) - {"error"} == {"code", "reason", "field", "mend"}
    assert caught.value.mend
    return caught.value


def parsed_or_refused(value: Any, media: str, header: str | None) -> None:
    """Posts that can be encoded, or a refusal that is the client's fault and can be sent: nothing else."""
    try:
        request = parse(*received(value, media, header=header))
    except RequestError as error:
        assert error.code in {400, 413, 415, 422}
        json.dumps(error.body())
    else:
        assert request.posts
        for post in request.posts:
            post.encode()
