"""HTTP over the published index: similar notes, health, metrics, a page. The only room that imports fastapi.

It follows the pointer alone and needs neither the registry nor a model: no torch, no mlflow.
"""
