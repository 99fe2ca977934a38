"""Evaluation: exact ranks, slices, the modality test, baselines, the report. The only room that imports matplotlib."""
