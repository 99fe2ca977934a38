"""The model as MLflow serves it: a script that MLflow runs at load (a "model from code"), not a pickled object.

It is copied into every logged model, so it stays small and rests on the installed notellm2, whose version the model's
requirements pin. Request: note_id, title, topics, content, and optionally image (the encoded file; base64 in JSON).
A note without image has an empty one: MLflow's JSON decoder fails on null in a binary column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class NoteEmbedder(PythonModel):
    """Notes in, one embedding a note out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        from notellm2.model.bundle.bundle import Bundle

        self._embedder = Bundle.load(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow calls with it
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002 - likewise
    ) -> pd.DataFrame:
        """Embed notes, a row each.

        Args:
            context: unused.
            model_input: one row a note, columns as in the module's docstring.
            params: unused.

        Returns:
            One column, ``embedding``: a list of d floats a row, of length 1.
        """
        from notellm2.notes.schema import Note

        notes = [
            Note(
                note_id=row["note_id"],
                title=_text(row.get("title")),
                topics=_topics(row.get("topics")),
                content=_text(row.get("content")),
                image=_image(row.get("image")),
            )
            for row in model_input.to_dict("records")
        ]
        vectors = self._embedder.embed(notes).tolist() if notes else []
        return pd.DataFrame({"embedding": vectors})


def _text(value: Any) -> str:
    # pandas turns a missing text into NaN or None, whatever the signature says.
    return value if isinstance(value, str) else ""


def _topics(value: Any) -> tuple[str, ...]:
    return () if value is None or isinstance(value, float) else tuple(str(topic) for topic in value)


def _image(value: Any) -> bytes | None:
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


mlflow.models.set_model(NoteEmbedder())
