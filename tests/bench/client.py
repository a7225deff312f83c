"""A client that sends any bytes and reports whatever comes back, also nothing. One connection a thread, kept open."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from stages.torchserve import Server
from tests.bench.bodies import Body


@dataclass(frozen=True)
class Reply:
    """status: 0 where no answer came; `body` then says why. sent: of time.monotonic(). seconds: until the answer."""

    status: int
    media: str
    body: bytes
    sent: float
    seconds: float


class Client:
    """Sends requests to one model of a server; may be shared by threads."""

    def __init__(self, server: Server, model: str, timeout: float = 60.0) -> None:
        """timeout: seconds to wait for an answer."""
        self.address, self.model, self.timeout = urlsplit(server.url).netloc, model, timeout
        self.key = json.loads(server.key_file.read_text(encoding="utf-8"))["inference"]["key"]
        self._own = threading.local()

    def post(self, body: Body) -> Reply:
        """Send one body. Never raises for what the server does."""
        headers = {"Authorization": f"Bearer {self.key}"} | ({"Content-Type": body.media} if body.media else {})
        infer = body.endpoint == "infer"
        path = f"/v2/models/{self.model}/infer" if infer else f"/{body.endpoint}/{self.model}"
        sent = time.monotonic()
        try:
            connection = self._connection()
            connection.request("POST", path, body.raw, headers)
            response = connection.getresponse()
            content = response.read()
            if response.will_close:
                self._drop()
            media = response.getheader("content-type", "")
            return Reply(response.status, media, content, sent, time.monotonic() - sent)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            return Reply(0, "", type(error).__name__.encode(), sent, time.monotonic() - sent)

    def _connection(self) -> http.client.HTTPConnection:
        if getattr(self._own, "connection", None) is None:
            self._own.connection = http.client.HTTPConnection(self.address, timeout=self.timeout)
        return self._own.connection

    def _drop(self) -> None:
        self._own.connection.close()
        self._own.connection = None
