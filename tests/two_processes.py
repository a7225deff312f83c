"""One of the processes of `accelerate launch`: trains the tiny model and writes what came out. See test_training.py"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from torch import nn

from handlers.model import Classifier
from handlers.text import Encoder
from stages import training
from stages.acceleration import build_accelerator
from stages.batches import Split
from stages.params import Train
from stages.training import Trainer


def without_dropout(bundle: Path) -> Classifier:
    """The bundle's model; each process would draw dropout of its own, and each pass too."""
    model = Classifier.load(bundle)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text())
    settings = Train(**content["settings"])
    bundle, folder = Path(content["bundle"]), Path(content["folder"])
    split = Split([item.ids for item in Encoder(bundle, 32)(content["texts"])], content["labels"])
    accelerator = build_accelerator("float32")
    if not accelerator.is_main_process:
        # Stands for hardware whose probe ends with other bits than the first process's.
        training.PROBE_LR *= 1.001
    trainer = Trainer(without_dropout(bundle), split, split, settings, 0, accelerator)
    progress = trainer.fit(folder / "together.pt", {"run": "together"})
    weights = b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
    result = {
        "processes": accelerator.num_processes,
        "history": progress.history,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
