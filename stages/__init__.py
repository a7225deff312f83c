"""Builds what `handlers` serves: one module per DVC stage, each with a `main()`; helpers are modules of their own."""
