"""Baselines that any tuned model has to beat: TF-IDF and popularity (the frozen vision encoder is plain `Cosine`).

The text baseline is TF-IDF with the settings that did best on the project's real data set without knowing its
language: sublinear term counts, inverse document frequencies of the pool. On movielens-posters (867 notes, 867
queries) it reaches R@10 8.4 and R@100 29.4 on text cut to title[:30] + 5 topics + content[:100], and 17.5 and 43.3 on
the whole text; frequencies of all 10,177 notes give 7.7, 28.5 and 17.3, 42.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from notellm2.evaluation.ranks import F32, I64
from notellm2.recipe import TextLimits

# Scripts that put no spaces between words; a run of them is read as its pairs of neighbouring characters.
_UNSPACED = "\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TERM = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]{{2,}}")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


class TfIdf:
    """Cosine similarity of TF-IDF vectors."""

    def __init__(self, queries: Sequence[str], pool: Sequence[str]) -> None:
        """Fit the frequencies on the pool's texts, and weigh both with them."""
        vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True, dtype=np.float32)
        try:
            self._pool = sparse.csr_array(vectorizer.fit_transform(pool))
            self._queries = sparse.csr_array(vectorizer.transform(queries))
        except ValueError:
            if any(terms(text) for text in pool):
                raise
            # No note of the pool has a word: all score alike, and the tie rule makes that chance.
            self._pool = sparse.csr_array((len(pool), 1), dtype=np.float32)
            self._queries = sparse.csr_array((len(queries), 1), dtype=np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of notes in the pool: (Q, P)."""
        return self._queries.shape[0], self._pool.shape[0]

    def margins(self, rows: slice, columns: slice, thresholds: F32) -> F32:
        """See `Scorer.margins`."""
        scores: F32 = (self._queries[rows] @ self._pool[columns].T).toarray()
        scores -= thresholds[rows, None]
        return scores

    def at(self, columns: I64) -> F32:
        """See `Scorer.at`."""
        products = self._queries.multiply(self._pool[columns])
        return np.asarray(products.sum(axis=1), dtype=np.float32).reshape(-1)


class Popular:
    """The same list for every query: the pool by number of users."""

    def __init__(self, n_queries: int, popularity: I64) -> None:
        """`popularity` i64[P]: users of each note of the pool; exact in float32 up to 16 million."""
        self._n_queries = n_queries
        self._popularity: F32 = popularity.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of notes in the pool: (Q, P)."""
        return self._n_queries, len(self._popularity)

    def margins(self, rows: slice, columns: slice, thresholds: F32) -> F32:
        """See `Scorer.margins`."""
        margins: F32 = self._popularity[None, columns] - thresholds[rows, None]
        return margins

    def at(self, columns: I64) -> F32:
        """See `Scorer.at`."""
        scores: F32 = self._popularity[columns]
        return scores


def terms(text: str) -> list[str]:
    """Split a text into lower-case words of two letters or more; Chinese and Japanese into overlapping pairs."""
    words: list[str] = []
    for term in _TERM.findall(text.lower()):
        if not _IS_UNSPACED.match(term) or len(term) == 1:
            words.append(term)
        else:
            words.extend(term[i : i + 2] for i in range(len(term) - 1))
    return words


def cut_text(title: str, topics: Sequence[str], content: str, limits: TextLimits) -> str:
    """Cut a note's text to the character limits of the model; its token limit needs a tokenizer and is left out."""
    kept = [topic[: limits.topic_chars] for topic in topics[: limits.topics]]
    return " ".join([title[: limits.title_chars], *kept, content[: limits.content_chars]])


def whole_text(title: str, topics: Sequence[str], content: str) -> str:
    """Join all of a note's text."""
    return " ".join([title, *topics, content])
