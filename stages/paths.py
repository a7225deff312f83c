"""Where the code lies, and everything that the stages write: one folder, `outputs/`, relative to the project's root."""

from __future__ import annotations

from pathlib import Path

# The code that ships and builds is the code beside this module, wherever a stage is started.
PROJECT = Path(__file__).resolve().parents[1]

OUTPUTS = Path("outputs")

METRICS = OUTPUTS / "metrics"
PLOTS = OUTPUTS / "plots"
SECTIONS = OUTPUTS / "sections"
REPORT = OUTPUTS / "report"

DATA = OUTPUTS / "data"
RAW = DATA / "raw"
WORDNET = DATA / "wordnet"
PREPARED = DATA / "prepared"
AUGMENTED = DATA / "augmented"

MODELS = OUTPUTS / "models"
PRETRAINED = MODELS / "pretrained"
BASELINE = MODELS / "baseline"
LINEAR = MODELS / "linear"
DEEP = MODELS / "deep"
FUSED = MODELS / "fused"
SELECTED = MODELS / "selected"
SELECTED_FILE = "selected.json"  # in that folder: the candidate's name
ONNX = MODELS / "onnx"

EVALUATION = OUTPUTS / "evaluation"
EVALUATION_SECTION = "section.html"  # in each candidate's folder there
MODEL_STORE = OUTPUTS / "model_store"
SAMPLES = OUTPUTS / "benchmark"

# Not an output of any stage: DVC deletes outputs before a run, and this is what an interrupted run resumes from.
CHECKPOINTS = OUTPUTS / "checkpoints"
# Nor this: the journal of `python -m stages.tune`.
TUNING = OUTPUTS / "tuning"
