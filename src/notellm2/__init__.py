"""NoteLLM-2 in production: from a raw export of notes and behaviour to a promoted model and a published index.

Rooms, in the order of the data: notes, quality, pairs, model, training, embedding, evaluation, index, registry.
Each knows the rooms before it, `artifacts` and `recipe`; none knows Prefect (that is `flows/`).
"""
