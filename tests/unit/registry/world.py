"""A registry and a published place to promote in: real SQLite, real indexes, versions without their files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from notellm2.artifacts import Artifact, Store
from notellm2.index.index_stage import build_index
from notellm2.promotion.ledger import Ledger
from notellm2.promotion.transaction import Promoter, Why
from notellm2.publication.location import Location
from notellm2.publication.opening import open_location
from notellm2.publication.pointer import NothingPublished, read_pointer
from notellm2.recipe import IndexConfig
from notellm2.registry import names, versions
from notellm2.registry.decisions import Pair
from notellm2.registry.tracking import Tracking
from tests.unit.index.examples import DATA_MD5, clustered, vectors_artifact

A, B = "a" * 20, "b" * 20
"""Digests of two bundles."""
WHY = Why(by="a test", reason="because", mode="automatic")


@dataclass(frozen=True)
class World:
    """Where a test promotes."""

    tracking: Tracking
    published: Path | str

    @property
    def location(self) -> Location:
        return open_location(self.published)

    def promoter(self, **settings: Any) -> Promoter:
        return Promoter(self.tracking, self.location, **{"wait_s": 0.0, **settings})

    def register(self, bundle: str) -> str:
        """A version with this bundle digest that passed a gate which saw no champion."""
        client, name = self.tracking.client, self.tracking.model_name
        versions._ensure_registered_model(self.tracking)
        tags = {names.BUNDLE: bundle, names.DATA_MD5: DATA_MD5, names.GATE: "passed"}
        return str(client.create_model_version(name, "s3://nowhere/model", tags=tags, await_creation_for=0).version)

    def promote(
        self, version: str, index: Artifact, expected: str | None, over: str | None = None, **settings: Any
    ) -> Any:
        promoter = self.promoter(**settings)
        return promoter.promote(version, index, expected=expected, data_md5=DATA_MD5, why=WHY, over=over)

    def pair(self) -> Pair:
        """What alias and pointer name."""
        try:
            publication = read_pointer(self.published).version
        except NothingPublished:
            publication = None
        return Pair(version=versions.alias_version(self.tracking, names.CHAMPION), publication=publication)

    def in_use(self) -> str:
        """The version that both name."""
        pair = self.pair()
        assert read_pointer(self.published).model_version == pair.version
        return str(pair.version)

    def lines(self) -> list[tuple[str, str | None, str | None]]:
        """The ledger, in short: action, version now, version before."""
        return [(e.action, e.to.version, e.over.version) for e in Ledger(self.location).entries()]


def index_of(store: Store, bundle: str, seed: int = 0) -> Artifact:
    """An index of vectors of this bundle, built in this process even when other tests have brought torch into it."""
    vectors = vectors_artifact(store, clustered(40, seed=seed), bundle=bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        return build_index(store, vectors, IndexConfig(sample=20), threads=1)
