"""Make the stack's bucket, and test the conditional writes of its store, on which promotion rests.

``python -m notellm2.stack.bucket``, a one-shot of docker-compose.yml. The pointer of the published index moves by a
conditional write (`notellm2.publication`): a store that ignores the condition would let two promotions overwrite each
other unseen, so it is refused here, before anything of ours is written to it.
"""

from __future__ import annotations

import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from notellm2.errors import InputError

_WRITERS = 8
_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def set_up(client: Any, bucket: str) -> bool:
    """Make a bucket unless it is there, and try its conditional writes.

    Args:
        client: boto3's S3 client.
        bucket: the bucket's name.

    Returns:
        Whether the bucket was made.

    Raises:
        InputError: the store writes although the condition does not hold, or lets two writers with one condition win.
    """
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
        created = False
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket", "NotFound"):
            raise
        region = client.meta.region_name
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        client.create_bucket(Bucket=bucket, **where)
        created = True
    _refuse_unconditional(client, bucket)
    return created


def answers_anybody(anonymous: Any, bucket: str) -> bool:
    """Return whether a client without a key may list a bucket."""
    from botocore.exceptions import ClientError

    try:
        anonymous.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError:
        return False
    return True


def _refuse_unconditional(client: Any, bucket: str) -> None:
    prefix = f"_checks/{uuid.uuid4().hex}"
    keys = [f"{prefix}/one", f"{prefix}/race"]
    try:
        client.put_object(Bucket=bucket, Key=keys[0], Body=b"first", IfNoneMatch="*")
        stale = {"IfMatch": '"00000000000000000000000000000000"'}
        for condition in ({"IfNoneMatch": "*"}, stale):
            if _writes(client, bucket, keys[0], condition):
                raise InputError(_unsafe(f"ignores {next(iter(condition))}"))
        current = client.head_object(Bucket=bucket, Key=keys[0])["ETag"]
        for condition, key in (({"IfNoneMatch": "*"}, keys[1]), ({"IfMatch": current}, keys[0])):
            # Stores are known that check first and write afterwards: under load several writers then win.
            with ThreadPoolExecutor(_WRITERS) as pool:
                won = sum(pool.map(lambda _, c=condition, k=key: _writes(client, bucket, k, c), range(_WRITERS)))
            if won != 1:
                raise InputError(_unsafe(f"lets {won} of {_WRITERS} writers with one {next(iter(condition))} win"))
    finally:
        for key in keys:
            client.delete_object(Bucket=bucket, Key=key)


def _writes(client: Any, bucket: str, key: str, condition: dict[str, str]) -> bool:
    """Whether a conditional write took place."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=uuid.uuid4().bytes, **condition)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _REFUSED:
            raise
        return False
    return True


def _unsafe(what: str) -> str:
    return (
        f"the object store {what} on PutObject: promotion is not safe on it; use one with conditional writes "
        "(docs/decisions/0005-object-store.md)"
    )


def main() -> int:
    """Set up the bucket that ``S3_BUCKET`` names, at ``AWS_ENDPOINT_URL``."""
    import boto3
    from botocore import UNSIGNED
    from botocore.client import Config

    bucket = os.environ["S3_BUCKET"]
    try:
        created = set_up(boto3.client("s3"), bucket)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"bucket {bucket}: {'made' if created else 'there'}; conditional writes work\n")
    if answers_anybody(boto3.client("s3", config=Config(signature_version=UNSIGNED)), bucket):
        sys.stdout.write(f"WARNING: the object store shows the bucket {bucket} to whoever asks, without a key\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
