"""A promotion at a real server: with a promoter's credentials, and without."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import uuid
from pathlib import Path

import pytest

from notellm2.artifacts import Artifact
from notellm2.errors import InputError
from notellm2.promotion.journal import read_intent
from notellm2.promotion.status import collect_status
from notellm2.promotion.transaction import Promoter, Step
from notellm2.publication.pointer import read_pointer
from notellm2.recipe import RegistryConfig
from notellm2.registry import names, versions
from notellm2.registry.decisions import Pair
from notellm2.registry.identities import OWN, PROMOTER, Forbidden, promoter
from notellm2.registry.tracking import URI_VARIABLE, Tracking
from notellm2.workspace import Workspace
from tests.unit.access.server import PASSWORDS, Server
from tests.unit.index.examples import DATA_MD5
from tests.unit.registry.world import WHY, A, B, World


@pytest.fixture
def training(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """What a worker sees that may train and not promote."""
    for name in (*PROMOTER, *(f"{variable}_FILE" for variable in (*OWN, *PROMOTER))):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.as_user("trainer").items():
        monkeypatch.setenv(name, value)
    name = f"t-{uuid.uuid4().hex[:10]}"
    tracking = dataclasses.replace(Tracking.at(Workspace.at(tmp_path)), experiment=name, model_name=name)
    return World(tracking, tmp_path / "published")


def promote_as(monkeypatch: pytest.MonkeyPatch, user: str, password: str | None = None) -> None:
    monkeypatch.setenv(PROMOTER[0], user)
    monkeypatch.setenv(PROMOTER[1], password or PASSWORDS[user])


def test_without_a_promoters_credentials_it_is_refused_and_nothing_is_half_done(
    training: World, indexes: dict[str, Artifact]
) -> None:
    version = training.register(A)
    versions.move_alias(training.tracking, names.CHALLENGER, version)
    with pytest.raises(Forbidden) as refused:
        training.promote(version, indexes[A], None)
    for said in ("user trainer may not promote", *PROMOTER, f"`notellm2 promote {version}`"):
        assert said in str(refused.value)
    assert training.pair() == Pair(version=None, publication=None)
    assert (training.lines(), read_intent(training.location)) == ([], None)
    assert versions.alias_version(training.tracking, names.CHALLENGER) == version


def test_before_anything_is_registered_a_trainer_finds_nothing_and_begins(training: World, tmp_path: Path) -> None:
    tracking = training.tracking
    assert (versions.champion(tracking), versions.challenger(tracking)) == (None, None)
    with pytest.raises(InputError, match="version '1' of model"):
        versions.get_version(tracking, "1")
    status = collect_status(Workspace.at(tmp_path), RegistryConfig(model_name=tracking.model_name))
    assert (status.champion, status.challenger) == (None, None)
    training.promoter().recover()
    assert training.register(A) == "1"


def test_with_them_only_the_promotion_uses_them(
    training: World, indexes: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(PASSWORDS["promoter"] + "\n")
    monkeypatch.setenv(PROMOTER[0], "promoter")
    monkeypatch.setenv(f"{PROMOTER[1]}_FILE", str(tmp_path / "secret"))
    first, second = training.register(A), training.register(B)  # A promoter may not register.
    training.promote(first, indexes[A], None)
    training.promote(second, indexes[B], first)
    training.promoter().rollback(WHY)
    assert training.in_use() == first
    tags = training.tracking.client.get_model_version(training.tracking.model_name, first).tags
    assert {names.PROMOTED_AT, names.PROMOTED_OVER, names.BEGUN, names.PUBLISHED} <= set(tags)
    decided = training.tracking.client.get_model_version(training.tracking.model_name, first).description
    assert [line for line in ("(ledger 1)", "(ledger 2)", "(ledger 3)") if line not in str(decided)] == []


def test_a_promoter_describes_a_version_and_a_model_and_a_reader_does_not(
    training: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, model = training.register(A), training.tracking.model_name
    client = training.tracking.client

    def describe() -> None:
        client.update_model_version(model, version, "better on short notes")
        client.update_registered_model(model, "for the home page")

    for name, value in server.as_user("reader").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=r"UpdateModelVersion|Permission denied"):
        describe()
    for name, value in server.as_user("promoter").items():
        monkeypatch.setenv(name, value)
    describe()
    assert client.get_model_version(model, version).description == "better on short notes"
    assert client.get_registered_model(model).description == "for the home page"


def test_neither_a_rollback_nor_a_refresh_goes_half_the_way(
    training: World, indexes: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = training.register(A), training.register(B)
    with monkeypatch.context() as promoting:
        promote_as(promoting, "promoter")
        training.promote(first, indexes[A], None)
        training.promote(second, indexes[B], first)
        training.promoter().rollback(WHY)
    before, lines = training.pair(), training.lines()
    with pytest.raises(
        Forbidden, match=rf"may not go back to version {second} .* `notellm2 rollback --to {second}` then"
    ):
        training.promoter().rollback(WHY, to=second)
    with pytest.raises(Forbidden):  # A refresh moves no alias: the pointer must stay too.
        training.promote(first, indexes["refreshed"], first)
    assert (training.pair(), training.lines(), read_intent(training.location)) == (before, lines, None)


def _die_before(promoter: Promoter, at: Step, version: str, index: Artifact) -> None:
    def die(step: Step) -> None:
        if step == at:
            os._exit(77)

    dataclasses.replace(promoter, on_step=die).promote(version, index, expected=None, data_md5=DATA_MD5, why=WHY)


@pytest.mark.parametrize("at", [Step.POINTER, Step.LEDGER])
def test_a_training_leaves_what_a_killed_promoter_began_and_a_promoter_settles_it(
    at: Step,
    training: World,
    indexes: dict[str, Artifact],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = training.register(A)
    with monkeypatch.context() as promoting:
        promote_as(promoting, "promoter")
        killed = multiprocessing.get_context("fork").Process(
            target=_die_before, args=(training.promoter(), at, version, indexes[A])
        )
        killed.start()
        killed.join(60)
        assert killed.exitcode == 77
    left, intent = training.pair(), read_intent(training.location)
    assert intent is not None
    training.promoter().recover()
    assert (training.pair(), read_intent(training.location), training.lines()) == (left, intent, [])
    assert "stays until a promoter's" in caplog.text
    promote_as(monkeypatch, "promoter")
    training.promoter().recover()
    assert read_intent(training.location) is None
    if at == Step.POINTER:
        assert training.pair() == Pair(version=None, publication=None)
    else:
        assert training.in_use() == version
        assert read_pointer(training.published).model_version == version


@pytest.mark.parametrize("user", ["reader", "nobody"])
def test_credentials_that_are_no_promoters_say_so(
    user: str, training: World, indexes: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_as(monkeypatch, user, "whatever it may be" if user == "nobody" else None)
    version = training.register(A)
    with pytest.raises(Forbidden, match=f"user {user} may not .*needs a user with the role promoter"):
        training.promote(version, indexes[A], None)
    assert training.pair() == Pair(version=None, publication=None)


def test_half_of_the_credentials_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROMOTER:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    assert promoter() is None
    monkeypatch.setenv(PROMOTER[0], "promoter")
    with pytest.raises(InputError, match=PROMOTER[1]):
        promoter()


def test_a_password_in_the_servers_address_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://kim:pa55word@host:5000")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD_FILE") as refused:
        Tracking.at(Workspace.at(tmp_path))
    assert "pa55word" not in str(refused.value)
