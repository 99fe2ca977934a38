from __future__ import annotations

from pathlib import Path

import pytest

from notellm2.credentials import redacted, secret
from notellm2.errors import InputError


def test_a_secret_comes_from_the_variable_or_from_the_file_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_SECRET", raising=False)
    assert secret("A_SECRET") is None
    (tmp_path / "held").write_text("from the file\n")
    monkeypatch.setenv("A_SECRET_FILE", str(tmp_path / "held"))
    assert secret("A_SECRET") == "from the file"
    monkeypatch.setenv("A_SECRET", "from the variable")
    with pytest.raises(InputError, match="both set, to two") as both:
        secret("A_SECRET")
    assert "from the" not in str(both.value).replace(str(tmp_path), "")
    monkeypatch.delenv("A_SECRET_FILE")
    assert secret("A_SECRET") == "from the variable"
    monkeypatch.setenv("A_SECRET", "")
    assert secret("A_SECRET") is None


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_file_without_a_secret_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "held"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("A_SECRET_FILE", str(path))
    with pytest.raises(InputError, match=r"A_SECRET_FILE .*held"):
        secret("A_SECRET")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET http://kim:pa55@host:5000/x failed", "GET http://kim:***@host:5000/x failed"),
        ("postgresql+psycopg2://mlflow:a%40b@db/mlflow", "postgresql+psycopg2://mlflow:***@db/mlflow"),
        ("redis://:pa55@host", "redis://:***@host"),
        ("a://b:p@q@host and c://d:e@f", "a://b:***@host and c://d:***@f"),
        ("('https://u:p:w@host/', 'x@y')", "('https://u:***@host/', 'x@y')"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("mail kim@example.org: see http://host/", "mail kim@example.org: see http://host/"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown
