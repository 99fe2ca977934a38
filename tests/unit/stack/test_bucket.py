"""The bucket's set-up proves conditional writes, and refuses stores that only seem to have them."""

from __future__ import annotations

import threading
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from notellm2.errors import InputError
from notellm2.stack.bucket import answers_anybody, set_up


@pytest.fixture
def client(s3_endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
    )


class Unfit:
    """A store that ignores a condition, or checks it only while nobody else writes."""

    def __init__(self, client: Any, ignores: str = "", races: bool = False):
        self._client, self._ignores = client, ignores
        self._barrier = threading.Barrier(8) if races else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        if self._barrier is not None and arguments["Key"].endswith("race"):
            # Everyone has checked before anyone writes.
            self._barrier.wait(timeout=30)
            arguments.pop("IfNoneMatch")
        arguments.pop(self._ignores, None)
        return self._client.put_object(**arguments)


def test_a_bucket_is_made_once_and_left_empty(client: Any) -> None:
    assert set_up(client, "made-by-the-stack")
    assert not set_up(client, "made-by-the-stack")
    assert client.list_objects_v2(Bucket="made-by-the-stack")["KeyCount"] == 0


def test_a_region_elsewhere_is_named(s3_endpoint: str) -> None:
    elsewhere = boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="x", aws_secret_access_key="x", region_name="eu-central-1"
    )
    assert set_up(elsewhere, "made-in-europe")
    assert elsewhere.get_bucket_location(Bucket="made-in-europe")["LocationConstraint"] == "eu-central-1"


@pytest.mark.parametrize("condition", ["IfNoneMatch", "IfMatch"])
def test_a_store_that_ignores_a_condition_is_refused(client: Any, condition: str) -> None:
    with pytest.raises(InputError, match=f"ignores {condition}"):
        set_up(Unfit(client, ignores=condition), "unfit")
    assert client.list_objects_v2(Bucket="unfit")["KeyCount"] == 0


def test_a_store_that_checks_first_and_writes_afterwards_is_refused(client: Any) -> None:
    with pytest.raises(InputError, match="lets 8 of 8 writers with one IfNoneMatch win"):
        set_up(Unfit(client, races=True), "racy")


class Refusing:
    def list_objects_v2(self, **_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "ListObjectsV2")


def test_a_store_that_answers_anybody_is_known(client: Any) -> None:
    set_up(client, "open-to-all")
    assert answers_anybody(client, "open-to-all")
    assert not answers_anybody(Refusing(), "closed")
