"""Wait until a served model gives a real answer. TorchServe's /ping says Healthy while a worker is failing.

    python serve/ready.py --url http://127.0.0.1:8080 --model newsgroups --key-file key_file.json --timeout 60
    python serve/ready.py --no-key    # where authorization is done in front of the server, as in serve/kubernetes

Exit status 0 once a prediction has come back, 1 when the time is over. Standard library only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

POST = "the shuttle reached orbit around the moon"
PAUSE = 0.1
# A proxy of the environment (http_proxy) is for other machines, not for a server on this one.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, model: str, key_file: Path | None, timeout: float) -> str:
    """The label that the model, transformer included, gives to one post.

    key_file: None where the server wants no key. timeout: seconds. Raises OSError, ValueError or HTTPException, with
    what is wrong, where no label comes back.
    """
    headers = {"Content-Type": "application/json"}
    if key_file:
        headers["Authorization"] = f"Bearer {inference_key(key_file)}"
    # With the fast path, the linear part would answer alone.
    body = json.dumps({"text": POST, "fast_path": "off"}).encode()
    request = urllib.request.Request(f"{url}/predictions/{model}", data=body, headers=headers)
    try:
        with OPENER.open(request, timeout=timeout) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(f"status {error.code}: {error.read(300).decode(errors='replace')}") from None
    if not isinstance(answer, dict) or "label" not in answer:
        raise ValueError(f"an answer without a label: {str(answer)[:300]}")
    return str(answer["label"])


def inference_key(file: Path) -> str:
    """The key for predictions. Raises OSError where the file cannot be read, ValueError where it holds none."""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["inference"]["key"])
    except (KeyError, TypeError):
        raise ValueError(f"{file} holds no key for inference") from None


def wait(url: str, model: str, key_file: Path | None, timeout: float) -> str:
    """Ask until there is an answer; returns its label. Raises TimeoutError with the last thing that was wrong."""
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return ask(url, model, key_file, max(left, PAUSE))
        # A key file may be half-written, a server may hang up while it starts.
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = " ".join(str(error).split())
        if time.monotonic() + PAUSE >= end:
            raise TimeoutError(f"{model} at {url} was not ready within {timeout:g} s: {problem}")
        time.sleep(PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="newsgroups")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--key-file", type=Path, default=Path("key_file.json"))
    keys.add_argument("--no-key", dest="key_file", action="store_const", const=None)
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        label = wait(options.url.rstrip("/"), options.model, options.key_file, options.timeout)
    except TimeoutError as error:
        sys.exit(f"not ready: {error}")
    print(f"ready after {time.monotonic() - started:.1f} s: {options.model} answers {label!r}")


if __name__ == "__main__":
    main()
