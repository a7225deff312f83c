"""The one shape of a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class RequestError(Exception):
    """A request that gets no answer.

    code: HTTP status; 400 malformed, 413 too long, 415 wrong type, 422 well-formed but unusable, 500 our own fault.
    reason: what is wrong; one of a few fixed texts, for it is counted. field: the part of the request. mend: what to
    send instead. tensors: whether the request was one of the Open Inference Protocol.
    """

    code: int
    reason: str
    field: str
    mend: str
    tensors: bool = False

    def body(self) -> dict[str, Any]:
        """The error as it is sent. The Open Inference Protocol wants it in one string, so there it is that as well."""
        body = {"code": self.code, "reason": self.reason, "field": self.field, "mend": self.mend}
        return body | {"error": f"{self.field}: {self.reason}: {self.mend}"} if self.tensors else body
