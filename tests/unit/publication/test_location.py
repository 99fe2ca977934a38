"""Places: what a swap and a folder promise, the same on a disk and on S3."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from notellm2.errors import InputError
from notellm2.index.layout import FileEntry, damage
from notellm2.publication.location import Location, Moved
from notellm2.publication.opening import open_location
from notellm2.publication.s3 import S3Location, StoreRefused
from tests.unit.publication import s3_server


def sources(folder: Path, **contents: str) -> dict[str, tuple[Path, FileEntry]]:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return {name: (folder / name, FileEntry.of(folder / name)) for name in contents}


def entries(files: Mapping[str, tuple[Path, FileEntry]]) -> dict[str, FileEntry]:
    return {name: entry for name, (_, entry) in files.items()}


def test_an_object_changes_only_from_what_was_seen(place: Location) -> None:
    assert place.read("current.json") is None
    first = place.swap("current.json", b"one", None)
    stored = place.read("current.json")
    assert stored is not None
    assert stored == (b"one", first)
    for expected in (None, "0" * 64):
        with pytest.raises(Moved, match=r"current\.json"):
            place.swap("current.json", b"two", expected)
    second = place.swap("current.json", b"two", first)
    with pytest.raises(Moved):
        place.swap("current.json", b"three", first)
    assert place.read("current.json") == (b"two", second)
    with pytest.raises(Moved):
        place.swap("missing.json", b"", first)
    assert place.read("missing.json") is None


def test_of_many_swaps_from_one_state_exactly_one_wins(place: Location) -> None:
    tag = place.swap("lease.json", b"start", None)
    writers = [open_location(str(place)) for _ in range(4)]
    for round_ in range(4):
        outcomes: list[str | None] = []
        start = threading.Barrier(4)

        def attempt(
            writer: int, round_: int = round_, tag: str = tag, outcomes: list[str | None] = outcomes,
            start: threading.Barrier = start,
        ) -> None:  # fmt: skip
            start.wait(timeout=30)
            try:
                outcomes.append(writers[writer].swap("lease.json", f"{round_} {writer}".encode(), tag))
            except Moved:
                outcomes.append(None)

        threads = [threading.Thread(target=attempt, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len(outcomes) == 4
        (tag,) = [outcome for outcome in outcomes if outcome is not None]
        stored = place.read("lease.json")
        assert stored is not None
        assert stored.tag == tag


def test_a_folder_comes_back_as_it_was_put(place: Location, tmp_path: Path) -> None:
    files = sources(tmp_path / "a", one="1", two="22")
    assert place.folders("versions") == {}
    place.put_folder("versions/v1", files, b"record")
    (name, folder), *rest = place.folders("versions").items()
    assert (name, folder.record, rest) == ("v1", b"record", [])
    assert abs(datetime.now(UTC) - folder.written) < timedelta(minutes=5)
    assert place.problems("versions/v1", entries(files)) == []
    assert damage(place.fetch("versions/v1", entries(files)), entries(files)) == []
    with pytest.raises(FileExistsError):
        place.put_folder("versions/v1", files, b"other")
    assert place.folders("versions")["v1"].record == b"record"


def test_a_source_that_is_not_what_it_should_be_makes_no_folder(place: Location, tmp_path: Path) -> None:
    files = sources(tmp_path / "a", one="1", two="22")
    (tmp_path / "a" / "two").write_text("2x")
    with pytest.raises(InputError, match="two is damaged"):
        place.put_folder("versions/v1", files, b"record")
    assert place.folders("versions") == {}


def test_what_is_removed_is_gone_and_the_rest_stays(place: Location, tmp_path: Path) -> None:
    files = sources(tmp_path / "a", one="1")
    for name in ("v1", "v2"):
        place.put_folder(f"versions/{name}", files, name.encode())
    place.remove_folder("versions/v1")
    place.remove_folder("versions/v1")
    assert list(place.folders("versions")) == ["v2"]
    assert len(place.problems("versions/v1", entries(files))) == 1
    place.remove_leftovers("versions", datetime.now(UTC) + timedelta(minutes=1))
    assert place.problems("versions/v2", entries(files)) == []


def test_names_stay_inside() -> None:
    location = open_location("nowhere")
    for name in ("../x", "/etc/passwd", ".hidden", "a//b", "a/../b", ""):
        with pytest.raises(ValueError, match="plain names"):
            location.read(name)


def test_a_place_is_a_folder_or_an_s3_url(tmp_path: Path) -> None:
    assert str(open_location(tmp_path)) == str(tmp_path)
    location = open_location(tmp_path)
    assert open_location(location) is location
    for url, message in (("gs://bucket/x", r"expected a folder or an s3:// URL"), ("s3://", "names no bucket")):
        with pytest.raises(InputError, match=message):
            open_location(url)
    assert str(open_location("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert str(open_location("s3://bucket")) == "s3://bucket"


def test_on_s3_harm_shows_and_a_sound_copy_is_fetched_once(s3_place: Location, tmp_path: Path) -> None:
    place = open_location(s3_place)
    files = sources(tmp_path / "a", one="1", two="22")
    place.put_folder("versions/v1", files, b"record")
    fetched = place.fetch("versions/v1", entries(files))
    inode = (fetched / "one").stat().st_ino
    assert (place.fetch("versions/v1", entries(files)) / "one").stat().st_ino == inode
    (fetched / "one").write_text("x")
    again = place.fetch("versions/v1", entries(files))
    assert (again / "one").read_text() == "1", "a damaged copy is downloaded again"

    prefix = s3_place.removeprefix(f"s3://{s3_server.BUCKET}/")
    client = s3_server.client()
    client.put_object(Bucket=s3_server.BUCKET, Key=f"{prefix}/versions/v1/one", Body=b"x")
    client.delete_object(Bucket=s3_server.BUCKET, Key=f"{prefix}/versions/v1/two")
    one, two = place.problems("versions/v1", entries(files))
    assert "one: not the file that was published" in one
    assert "two: missing" in two


def test_on_s3_only_the_last_versions_are_cached(s3_place: Location, tmp_path: Path) -> None:
    place = open_location(s3_place)
    files = sources(tmp_path / "a", one="1")
    for version in range(5):
        place.put_folder(f"versions/v{version}", files, b"")
        fetched = place.fetch(f"versions/v{version}", entries(files))
    assert sorted(path.name for path in fetched.parent.iterdir()) == ["v2", "v3", "v4"]


def test_on_s3_an_unfinished_folder_is_no_folder_and_is_cleared_away(s3_place: Location, tmp_path: Path) -> None:
    place = open_location(s3_place)
    prefix = s3_place.removeprefix(f"s3://{s3_server.BUCKET}/")
    client = s3_server.client()
    client.put_object(Bucket=s3_server.BUCKET, Key=f"{prefix}/versions/v1/one", Body=b"1")
    assert place.folders("versions") == {}
    place.remove_leftovers("versions", datetime.now(UTC) - timedelta(hours=1))
    assert client.list_objects_v2(Bucket=s3_server.BUCKET, Prefix=prefix)["KeyCount"] == 1
    place.remove_leftovers("versions", datetime.now(UTC) + timedelta(minutes=1))
    assert client.list_objects_v2(Bucket=s3_server.BUCKET, Prefix=prefix)["KeyCount"] == 0


def test_on_s3_a_write_whose_answer_was_lost_counts_as_ours(s3_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    location = open_location(s3_place)
    assert isinstance(location, S3Location)
    put = location._client.put_object

    def answer_lost(**arguments: object) -> object:
        from botocore.exceptions import ClientError

        put(**arguments)
        try:
            return put(**arguments)
        except ClientError as error:
            error.response["ResponseMetadata"]["RetryAttempts"] = 1
            raise

    with monkeypatch.context() as patch:
        patch.setattr(location._client, "put_object", answer_lost)
        tag = location.swap("current.json", b"ours", None)
    assert location.read("current.json") == (b"ours", tag)
    with pytest.raises(Moved):
        location.swap("current.json", b"ours", None)


def test_on_s3_a_store_that_refuses_is_an_oserror(s3_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3_place
    missing = open_location("s3://no-such-bucket-here/x")
    for ask in (lambda: missing.read("a"), lambda: missing.swap("a", b"", None), lambda: missing.folders("versions")):
        with pytest.raises(StoreRefused, match=r"no-such-bucket-here.*NoSuchBucket"):
            ask()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        open_location("s3://bucket/x").read("a")
