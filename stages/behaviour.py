"""Stage `behaviour`: invariance, direction and minimum functionality of the model that ships, on sampled test posts."""

from __future__ import annotations

import logging

from stages.behaviour_page import section
from stages.checklist import behave, failures
from stages.corpus import load_split
from stages.files import write_json, write_rows
from stages.html import write_section
from stages.params import load
from stages.paths import METRICS, PREPARED, SELECTED
from stages.scoring import load_predictor
from stages.stage import stage

log = logging.getLogger(__name__)


def main() -> None:
    with stage("behaviour"):
        params = load()
        test = load_split(PREPARED, "test")
        cases = behave(load_predictor(SELECTED), test["id"][:], test["text"][:], params.behaviour.posts, params.seed)
        figures = {kind: {name: failures(tested) for name, tested in tests.items()} for kind, tests in cases.items()}
        write_json(METRICS / "behaviour.json", figures)
        rows = {name: {"failed": row["failed"]} for tests in figures.values() for name, row in tests.items()}
        # Where no post could be changed so, there is nothing to show.
        write_rows(METRICS / "behaviour", {name: row for name, row in rows.items() if row["failed"] is not None})
        write_section("behaviour", *section(figures, cases))
        log.info("%s", {f"{kind}, {name}": row["failed"] for kind in figures for name, row in figures[kind].items()})


if __name__ == "__main__":
    main()
