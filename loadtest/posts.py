"""Reads posts to send, and the key that lets them in. Every failure is one line that says the mend."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

# Of a request's body, with room for its options; and of a post (MAX_BYTES and MAX_CHARACTERS of handlers/requests.py).
MOST_BYTES, MOST_CHARACTERS = 4_194_000, 1_000_000
DEFAULT = Path("outputs/data/prepared/test.parquet")


class InputError(Exception):
    """A file that a load test cannot use; the message says the mend."""


def read_posts(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Posts, and the class names where the file knows them.

    path: a data set (.parquet, column `text`), JSON lines (.jsonl, strings or objects with `text`), or text with one
    post a line. Raises InputError where it is missing, unreadable or empty.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: run dvc repro, or give --posts a text file with one post a line")
    try:
        posts, labels = _READERS.get(path.suffix, _read_text)(path)
        if not all(isinstance(post, str) for post in posts):
            raise ValueError("a post is no string")
    except ImportError:
        raise InputError(
            f"{path} is a data set, which pyarrow reads: install it, or give --posts a text file"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} cannot be read as posts ({' '.join(str(error).split())})") from None
    posts = [post for post in posts if _acceptable(post)]
    if not posts:
        raise InputError(
            f"{path} holds no post with a word in it that is not too long to send: give --posts a file with one post a "
            "line"
        )
    return posts, labels


def _acceptable(post: str) -> bool:
    """Whether it is no bad request, which the server would be right to refuse: of no letter, or too long."""
    # As JSON, with all but ASCII escaped; the server counts what Unicode's compatible form makes of it as well.
    sent = len(json.dumps(post)) <= MOST_BYTES
    return sent and len(unicodedata.normalize("NFKC", post)) <= MOST_CHARACTERS and any(map(str.isalpha, post))


def _read_parquet(path: Path) -> tuple[list[str], tuple[str, ...]]:
    # Only data sets need it, so a load test from a text file runs where there is no pyarrow.
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    details = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    label = details.get("info", {}).get("features", {}).get("label", {})
    return table.column("text").to_pylist(), tuple(label.get("names", ()))


def _read_json_lines(path: Path) -> tuple[list[str], tuple[str, ...]]:
    values = [json.loads(line) for line in _lines(path) if line.strip()]
    return [value if isinstance(value, str) else value["text"] for value in values], ()


def _read_text(path: Path) -> tuple[list[str], tuple[str, ...]]:
    return _lines(path), ()


def _lines(path: Path) -> list[str]:
    """By line feeds alone: form feeds and Unicode's other ends of a line may stand within a post."""
    # Bytes, since in text Python takes every carriage return for an end as well; before a line feed it is Windows' own.
    return [line.removesuffix("\r") for line in path.read_bytes().decode("utf-8").split("\n")]


_READERS = {".parquet": _read_parquet, ".jsonl": _read_json_lines}


def read_key(path: Path) -> str:
    """The inference key. Raises InputError where the file is missing or holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["inference"]["key"]
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: TorchServe writes it where it is started; run locust there, or give --key-file"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} holds no inference key: give --key-file the file that TorchServe wrote") from None
