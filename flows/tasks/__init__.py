"""Prefect tasks, one module a stage: each calls one function of the library and shows what came of it."""
