"""Differential fuzzing of the library; see __main__.py."""

TARGETS = ("ops", "training", "files")
