"""Lineage both ways: from a served answer to data, commit and recipe, and from any of those to what is served.

what = collect(workspace, model=None)          # reads store, published place and MLflow; says what is gone
trace(what, "n000042")                          # up: what it rests on; down: what rests on it
"""
