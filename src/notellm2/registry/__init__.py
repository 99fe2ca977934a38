"""Runs, model versions and aliases. The only room that imports mlflow."""
