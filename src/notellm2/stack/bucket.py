"""Make the stack's bucket, and prove that its store keeps the promise that promotion rests on.

``python -m notellm2.stack.bucket``, a one-shot of docker-compose.yml. The pointer of the published index moves by a
conditional write (`notellm2.index`): a store that ignores the condition would let two promotions overwrite each other
unseen, so it is refused here, before anything is written to it.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

from notellm2.errors import InputError

_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def set_up(client: Any, bucket: str) -> bool:
    """Make a bucket unless it is there, and try its conditional writes.

    Args:
        client: boto3's S3 client.
        bucket: the bucket's name.

    Returns:
        Whether the bucket was made.

    Raises:
        InputError: the store writes although the condition does not hold.
    """
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
        made = False
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket", "NotFound"):
            raise
        client.create_bucket(Bucket=bucket)
        made = True
    key = f"_checks/{uuid.uuid4().hex}"
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"first", IfNoneMatch="*")
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            try:
                client.put_object(Bucket=bucket, Key=key, Body=b"second", **condition)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _REFUSED:
                    raise
            else:
                raise InputError(
                    f"the object store ignores {next(iter(condition))} on PutObject: promotion is not safe on it; use "
                    "one with conditional writes (docs/decisions/0005-object-store.md)"
                )
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    return made


def main() -> int:
    """Set up the bucket that ``S3_BUCKET`` names, at ``AWS_ENDPOINT_URL``."""
    import boto3

    bucket = os.environ["S3_BUCKET"]
    made = set_up(boto3.client("s3"), bucket)
    sys.stdout.write(f"bucket {bucket}: {'made' if made else 'there'}; conditional writes work\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
