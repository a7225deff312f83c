"""Stage `check`: params.yaml is valid, before any work; writes down what each key allows."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from stages.files import write_json
from stages.params import Params, load
from stages.paths import OUTPUTS
from stages.stage import StageError, stage

ALLOWED = OUTPUTS / "params-allowed.json"


def allowed(section: type) -> dict[str, Any]:
    """Every key of a section with its type and the values it takes, as text.

    Nothing of it hangs on the values in params.yaml, so that a valid edit reruns only the stages that read the key.
    """
    hints = typing.get_type_hints(section)
    described: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            described[field.name] = allowed(typing.cast(type, kind))
        else:
            origin = typing.get_origin(kind)
            name = f"list of {typing.get_args(kind)[0].__name__}" if origin is tuple else kind.__name__.lower()
            described[field.name] = f"{name}: {field.metadata['allowed']}" if field.metadata else name
    return described


def main() -> None:
    with stage("check"):
        params = load()
        # DVC watches it, whatever the source, and would say no more than that there is no such file.
        if not Path(params.data.path).exists():
            raise StageError(f"data.path: {params.data.path} is missing; give a corpus, or tests/corpus for none")
        write_json(ALLOWED, allowed(Params))


if __name__ == "__main__":
    main()
