"""Links within an archive: to its own members, and nowhere else."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from notellm2.notes.archive import open_images
from notellm2.notes.images import ImageProblem
from notellm2.recipe import ImageLimits
from tests.unit.notes.exports import add_member


def _link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_in_a_tar_are_the_members_they_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.addfile(_link("images/early.png", tarfile.SYMTYPE, "a.png"))
        add_member(tar, "images/a.png", b"picture")
        tar.addfile(_link("images/sub/hard.png", tarfile.LNKTYPE, "images/a.png"))
        tar.addfile(_link("images/sub/up.png", tarfile.SYMTYPE, "../a.png"))
        tar.addfile(_link("images/twice.png", tarfile.SYMTYPE, "early.png"))
        tar.addfile(_link("images/gone.png", tarfile.LNKTYPE, "images/nowhere.png"))
        tar.addfile(_link("images/circle.png", tarfile.SYMTYPE, "circle.png"))
        tar.addfile(_link("images/out.png", tarfile.SYMTYPE, "../../secret.png"))
    with open_images(tmp_path / "images.tar", ImageLimits(), tmp_path) as images:
        for name in ("early.png", "sub/hard.png", "sub/up.png", "twice.png"):
            assert images.read(name) == b"picture"
        for name, reason in (("gone.png", "missing"), ("circle.png", "missing"), ("out.png", "outside-folder")):
            with pytest.raises(ImageProblem) as caught:
                images.read(name)
            assert caught.value.reason == reason
        assert list(images.remaining()) == []


def test_links_in_a_zip_are_the_members_they_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/a.png", b"picture")
        for name, target in (("images/b.png", "a.png"), ("images/out.png", "/etc/passwd")):
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    with open_images(tmp_path / "images.zip", ImageLimits(), tmp_path) as images:
        assert images.read("b.png") == b"picture"
        with pytest.raises(ImageProblem, match="outside the images' folder"):
            images.read("out.png")
