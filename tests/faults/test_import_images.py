"""Hostile and damaged images in every kind of container: each counted, placed and set aside, none a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from notellm2.errors import InputError
from notellm2.notes.dataset import Dataset
from notellm2.notes.import_export import ImportReport, import_export
from notellm2.recipe import ImageLimits
from tests.unit.notes.exports import add_member, encoded, picture, write_export, write_images

LIMITS = ImageLimits(max_bytes=20_000, max_pixels=10_000)


def _animation() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(
        sink, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")], duration=9
    )
    return sink.getvalue()


def _broken() -> bytes:
    data = bytearray(picture())
    start = data.index(b"IDAT") + 4
    data[start : start + 12] = b"\xff" * 12
    return bytes(data)


BAD = {
    "broken": _broken(),
    "truncated": picture(1)[: len(picture(1)) // 2],
    "animated": _animation(),
    "oversized-bytes": b"\0" * 20_001,
    "oversized-pixels": encoded("PNG", (101, 100)),
    "not-an-image": b"<html>404</html>",
}


def _interactions(note_id: str) -> list[dict[str, Any]]:
    return [{"user_id": "u", "note_id": note_id, "event": "click", "timestamp": 1}]


def _notes(*paths: str) -> list[dict[str, Any]]:
    notes = [{"note_id": f"n{i}", "title": f"note {i}", "image_path": path} for i, path in enumerate(paths)]
    return [*notes, {"note_id": "last", "title": "sound", "image_path": "images/sound.png"}]


def _import(export: Path) -> ImportReport:
    return import_export(export, export.parent / "data", limits=LIMITS, progress=False)


def _records(report: ImportReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.into / "quarantine.jsonl").read_text().splitlines()]


def _with_image(report: ImportReport) -> list[str]:
    rows = Dataset.open(report.into).notes(["note_id", "image"]).to_pylist()
    return [row["note_id"] for row in rows if row["image"] is not None]


@pytest.mark.parametrize("archive", ["images", "images.tar", "images.tar.gz", "images.zip"])
def test_every_bad_image_is_set_aside_and_its_note_kept(archive: str, tmp_path: Path) -> None:
    paths = {reason: f"images/{reason}.jpg" for reason in BAD}
    paths |= {"missing": "images/nowhere.jpg", "outside-folder": "../secret.jpg"}
    notes = _notes(*paths.values())
    images = {paths[reason]: data for reason, data in BAD.items()} | {"images/sound.png": picture()}
    report = _import(write_export(tmp_path / "export", notes, _interactions("n0"), images, archive=archive))
    assert report.quarantined == dict.fromkeys(sorted(paths), 1)
    assert report.info.notes == len(notes)
    assert _with_image(report) == ["last"]
    for record, (row, (reason, path)) in zip(_records(report), enumerate(paths.items(), 1), strict=True):
        assert (record["kind"], record["reason"], record["id"]) == ("image", reason, f"n{row - 1}")
        assert record["location"] == f"notes.jsonl line {row}, {archive}: {path}"
        assert record["detail"]
    assert "stays, without image" in report.render()


def test_links_folders_and_pipes_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(5))
    export = write_export(
        tmp_path / "export",
        _notes("images/out.png", "images/in.png", "images/sub", "images/pipe", "images/loop", "/etc/hostname"),
        _interactions("n0"),
        {"images/sound.png": picture(), "images/sub/x.png": picture()},
    )
    (export / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    (export / "images" / "in.png").symlink_to("sound.png")
    (export / "images" / "loop").symlink_to("loop")
    os.mkfifo(export / "images" / "pipe")
    report = _import(export)
    assert report.quarantined == {"not-a-file": 2, "outside-folder": 2, "unreadable": 1}
    assert _with_image(report) == ["n1", "last"]


def _tar_export(tmp_path: Path, *paths: str) -> Path:
    return write_export(tmp_path / "export", _notes(*paths), _interactions("n0"), {})


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("packed", [False, True])
def test_hostile_members_of_a_tar_are_refused_and_reported_once(packed: bool, tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/link.png", "images/hard.png", "images/null.png", "images/twice.png")
    name = "images.tar.gz" if packed else "images.tar"
    with tarfile.open(export / name, "w:gz" if packed else "w") as tar:
        tar.addfile(_special("images", tarfile.DIRTYPE))
        tar.addfile(_special("images/link.png", tarfile.SYMTYPE, "/etc/passwd"))
        tar.addfile(_special("images/hard.png", tarfile.LNKTYPE, "../../secret"))
        tar.addfile(_special("images/null.png", tarfile.CHRTYPE))
        tar.addfile(_special("images/unasked", tarfile.FIFOTYPE))
        add_member(tar, "../../../tmp/escaped.png", picture())
        add_member(tar, "/tmp/absolute.png", picture())
        add_member(tar, "images/twice.png", picture(1))
        add_member(tar, "images/twice.png", picture(2))
        add_member(tar, "images/sound.png", picture())
    report = _import(export)
    assert report.quarantined == {"duplicate-image": 1, "not-a-file": 2, "outside-folder": 4}
    assert sorted(record["location"] for record in _records(report) if record["kind"] == "archive") == [
        f"{name}: ../../../tmp/escaped.png",
        f"{name}: /tmp/absolute.png",
        f"{name}: images/twice.png",
        f"{name}: unasked",
    ]
    assert _with_image(report) == ["n3", "last"]
    image = Dataset.open(report.into).notes(["image"]).column(0)[3].as_py()
    assert image["bytes"] == picture(1), "the first of two members stays"


def test_hostile_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/link.png", "images/pipe", "images/twice.png", "images/crc.png")
    path = export / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in (("images/link.png", stat.S_IFLNK), ("images/pipe", stat.S_IFIFO)):
            member = zipfile.ZipInfo(name)
            member.external_attr = (mode | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
        archive.writestr("../escaped.png", picture())
        archive.writestr("images/twice.png", picture(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("images/twice.png", picture(2))
        archive.writestr("images/crc.png", picture(7))
        archive.writestr("images/sound.png", picture())
    data = bytearray(path.read_bytes())
    data[data.index(picture(7)) + 100] ^= 0xFF
    path.write_bytes(data)
    report = _import(export)
    assert report.quarantined == {"broken": 1, "duplicate-image": 1, "not-a-file": 1, "outside-folder": 2}
    assert _with_image(report) == ["n2", "last"]


def test_a_zip_member_that_lies_about_its_size_is_bounded(tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/bomb.png")
    path = export / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/bomb.png", b"\0" * 30_000_000)
        archive.writestr("images/sound.png", picture())
    data = bytearray(path.read_bytes())
    for place in _places(data, struct.pack("<I", 30_000_000)):
        data[place : place + 4] = struct.pack("<I", 1_000)
    path.write_bytes(data)
    tracemalloc.start()
    report = _import(export)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.quarantined == {"broken": 1}
    assert peak < 10_000_000
    assert _with_image(report) == ["last"]


def _places(data: bytes, part: bytes) -> list[int]:
    places, start = [], data.find(part)
    while start >= 0:
        places.append(start)
        start = data.find(part, start + 1)
    assert places
    return places


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_member_of_a_tar_is_passed_over_without_reading_it(packed: bool, tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/bomb.png")
    with tarfile.open(export / "plain", "w") as tar:
        add_member(tar, "images/bomb.png", b"\0" * 30_000_000)
        add_member(tar, "images/sound.png", picture())
    plain = (export / "plain").read_bytes()
    (export / "plain").unlink()
    (export / "images.tar").write_bytes(gzip.compress(plain) if packed else plain)
    del plain
    tracemalloc.start()
    report = _import(export)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.quarantined == {"oversized-bytes": 1}
    assert peak < 10_000_000
    assert _with_image(report) == ["last"]


def test_a_gzipped_tar_that_grows_out_of_proportion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notellm2.notes.tarball._FREE_GROWTH", 1_000_000)
    export = _tar_export(tmp_path)
    with tarfile.open(export / "images.tar.gz", "w:gz") as tar:
        add_member(tar, "images/bomb.png", b"\0" * 30_000_000)
        add_member(tar, "images/sound.png", picture())
    with pytest.raises(InputError, match=r"images\.tar\.gz: .* unpack to more than"):
        _import(export)
    assert not (tmp_path / "data").exists()


def test_a_header_that_claims_gigabytes_is_damage_and_costs_no_memory(tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/later.png")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        add_member(tar, "images/sound.png", picture())
    sound = sink.getvalue()[: 512 + -(-len(picture()) // 512) * 512]
    bomb = tarfile.TarInfo("././@LongLink")
    bomb.type, bomb.size = tarfile.GNUTYPE_LONGNAME, 4_000_000_000
    (export / "images.tar").write_bytes(sound + bomb.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000)
    report = _import(export)
    assert report.quarantined == {"damaged-archive": 1, "missing": 1}
    assert _with_image(report) == ["last"]
    assert "4000000000" in _records(report)[-1]["detail"]


@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz"])
def test_a_cut_archive_gives_what_is_left_of_it(name: str, tmp_path: Path) -> None:
    paths = [f"images/{i}.png" for i in range(20)]
    export = write_export(tmp_path / "export", _notes(*paths), _interactions("n0"), {})
    write_images(export / name, {"images/sound.png": picture()} | {path: picture(i) for i, path in enumerate(paths)})
    whole = (export / name).read_bytes()
    (export / name).write_bytes(whole[: len(whole) // 2 + 5])
    report = _import(export)
    assert report.quarantined["damaged-archive"] == 1
    assert report.quarantined["missing"] + report.quarantined.get("truncated", 0) >= 5
    assert sum(report.quarantined.values()) - 1 + report.info.notes_with_image == report.info.notes == 21
    assert _with_image(report)[-1] == "last"


def test_a_damaged_header_in_the_middle_is_reported(tmp_path: Path) -> None:
    export = _tar_export(tmp_path, "images/later.png")
    write_images(export / "images.tar", {"images/sound.png": picture(), "images/later.png": picture()})
    data = bytearray((export / "images.tar").read_bytes())
    start = data.index(b"images/later.png")
    data[start + 148 : start + 156] = b"garbage!"  # the header's checksum
    (export / "images.tar").write_bytes(data)
    report = _import(export)
    assert report.quarantined == {"damaged-archive": 1, "missing": 1}


def test_a_path_that_no_file_system_can_hold_is_set_aside(tmp_path: Path) -> None:
    notes = _notes("a\0b.png", "x" * 5000 + ".png", ".", "images")
    report = _import(write_export(tmp_path / "export", notes, _interactions("n0"), {"images/sound.png": picture()}))
    assert sum(report.quarantined.values()) == 4
    assert set(report.quarantined) <= {"missing", "unreadable"}
