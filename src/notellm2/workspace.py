"""Where one installation keeps everything it makes: artifacts, MLflow's and Prefect's files, published indexes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """One folder; its artifacts lie at the top, what is no artifact under names that begin with ``_``.

    Attributes:
        root: the folder, absolute.
    """

    root: Path

    @classmethod
    def at(cls, root: Path) -> Workspace:
        """The workspace at a folder, made absolute so that later changes of directory do not matter."""
        return cls(root.absolute())

    @property
    def tracking_uri(self) -> str:
        """MLflow's default store here: a SQLite file."""
        return f"sqlite:///{self.root / '_mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's default artifact folder."""
        return self.root / "_mlflow" / "artifacts"

    @property
    def prefect_home(self) -> Path:
        """Prefect's home: its settings and the embedded server's database."""
        return self.root / "_prefect"

    @property
    def published(self) -> Path:
        """Published indexes and the pointer ``current.json`` that readers follow."""
        return self.root / "_published"
