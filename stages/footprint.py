"""What an engine needs before its first answer, measured in a process of its own: seconds to load, resident memory.

`python -m stages.footprint <bundle>` for PyTorch, `python -m stages.footprint <model.onnx>` for ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from stages.paths import PROJECT
from stages.stage import StageError

# A short post: what is measured is the engine, not the text.
IDS = [[1, 2, 3, 4, 5, 6, 7, 8]]


def footprint(model: Path) -> dict[str, float]:
    """load_s: imports, loading and a first answer. load_mb: resident memory afterwards, in megabytes (10^6 bytes).

    model: a bundle for PyTorch, or an ONNX file. Raises StageError where it cannot be loaded.
    """
    command = [sys.executable, "-m", "stages.footprint", str(model.resolve())]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise StageError(f"{model} cannot be loaded: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    started = time.perf_counter()
    model = Path(sys.argv[1])
    # Imported here: an engine pays for its own libraries only, and they are what takes long.
    if model.is_dir():
        from handlers.torch_engine import TorchEngine as Engine
    else:
        from handlers.onnx_engine import OnnxEngine as Engine
    Engine(model).logits(IDS)
    seconds = time.perf_counter() - started
    print(json.dumps({"load_s": round(seconds, 2), "load_mb": round(psutil.Process().memory_info().rss / 1e6)}))


if __name__ == "__main__":
    main()
