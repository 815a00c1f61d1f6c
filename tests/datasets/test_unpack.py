"""Archives are unpacked completely or not at all, and nothing is written outside the folder."""

import io
import os
import random
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from builders.rars import install_stand_in, write_rar

from repro.core.errors import MissingError, UsageError
from repro.datasets import unpack
from repro.datasets.annotations import DataError
from repro.datasets.unpack import unpack_archive

CONTENT = {
    "set/a & (b).avi": b"1" * 3000,
    "set/#c!/[d].mp4": b"2" * 10,
    "set/lists/train.txt": b"a 1\r\n",
}
KINDS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar")


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def write_tar(path: Path, members: Mapping[str, bytes], *more: tarfile.TarInfo) -> None:
    kind = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)


def write(path: Path, members: Mapping[str, bytes]) -> None:
    {".zip": write_zip, ".rar": write_rar}.get(path.suffix, write_tar)(path, members)


def random_bytes(count: int) -> bytes:
    """Incompressible, and the same in every run: where damage falls depends on the content."""
    return random.Random(count).randbytes(count)


def readers() -> list[str]:
    """Programs that can read rar archives on this machine, and the stand-in."""
    return ["stand-in", *(name for name in ("unar", "bsdtar") if shutil.which(name))]


@pytest.fixture(params=readers())
def rar_reader(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put only this program on the path."""
    programs = tmp_path / "programs"
    if request.param == "stand-in":
        install_stand_in(programs)
    else:
        programs.mkdir()
        for name in {"unar": ("unar", "lsar")}.get(request.param, (request.param,)):
            (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    return str(request.param)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_archives_files_are_unpacked(tmp_path: Path, kind: str, rar_reader: str) -> None:
    archive = tmp_path / f"set{kind}"
    write(archive, CONTENT)
    unpack_archive(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "programs", archive.name]


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_file_types_that_no_data_set_needs_are_not_unpacked(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"set{kind}", {**CONTENT, "image/1.jpg": b"x", "a.sh": b"x"})
    unpack_archive(tmp_path / f"set{kind}", tmp_path / "out")
    assert tree(tmp_path / "out") == CONTENT


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_complete_files_of_a_killed_run_are_kept_and_others_rewritten(tmp_path: Path, kind: str) -> None:
    archive, out = tmp_path / f"set{kind}", tmp_path / "out"
    write(archive, CONTENT)
    unpack_archive(archive, out)
    kept, cut, gone = (out / name for name in CONTENT)
    os.utime(kept, (1, 1))
    cut.write_bytes(b"2")
    gone.unlink()
    unpack_archive(archive, out)
    assert tree(out) == CONTENT
    assert kept.stat().st_mtime == 1


HOSTILE = ("../out.txt", "a/../../out.txt", "/tmp/actiondiff-out.txt", "a\\..\\out.txt", "C:/out.txt", "a\nb.txt")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz", ".rar"])
def test_a_name_that_leads_out_is_refused_by_name(tmp_path: Path, kind: str, name: str, rar_reader: str) -> None:
    archive = tmp_path / f"set{kind}"
    write(archive, {"fine.txt": b"1", name: b"2"})
    with pytest.raises(DataError) as caught:
        unpack_archive(archive, tmp_path / "in" / "out")
    text = str(caught.value)
    assert text.startswith(f"{archive}: ")
    assert "\n" not in text
    if "\n" not in name:
        # unar and bsdtar put / for \\, and a message shows a \\ as two.
        assert any(spelt in text for spelt in (name, name.replace("\\", "/"), name.replace("\\", "\\\\")))
    assert not list(tmp_path.rglob("out.txt"))
    assert not Path("/tmp/actiondiff-out.txt").exists()


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        link("in.avi", "/etc/passwd", tarfile.SYMTYPE),
        link("in.avi", "../../x", tarfile.SYMTYPE),
        link("in.avi", "/etc/passwd", tarfile.LNKTYPE),
        link("in.avi", "", tarfile.FIFOTYPE),
        link("in.avi", "", tarfile.CHRTYPE),
    ],
)
def test_a_link_or_device_in_a_tar_is_refused_by_name(tmp_path: Path, member: tarfile.TarInfo) -> None:
    write_tar(tmp_path / "set.tar", CONTENT, member)
    with pytest.raises(DataError, match=r"member 'in\.avi' is a link or a device"):
        unpack_archive(tmp_path / "set.tar", tmp_path / "out")
    assert not (tmp_path / "out" / "in.avi").exists()


def test_a_link_in_a_zip_is_refused_by_name(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("in.avi")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("fine.txt", b"1")
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(DataError, match=r"member 'in\.avi' is a link"):
        unpack_archive(tmp_path / "set.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_link_in_a_rar_is_refused_by_name(tmp_path: Path, rar_reader: str) -> None:
    write_rar(tmp_path / "set.rar", CONTENT, {"in.avi": "/etc/passwd"})
    with pytest.raises(DataError, match=r"set\.rar: member 'in\.avi' is a link"):
        unpack_archive(tmp_path / "set.rar", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_link_missing_from_the_listing_is_found_after_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_stand_in(tmp_path / "programs")
    program = tmp_path / "programs" / "bsdtar"
    program.write_text(program.read_text().replace('"l" if mode >> 12 == 0o12 else "-"', '"-"', 1).replace(
        'if letter == "l"', "if mode >> 12 == 0o12"
    ))  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    write_rar(tmp_path / "set.rar", CONTENT, {"in.avi": "/etc/passwd"})
    with pytest.raises(DataError, match=r"set\.rar: member 'in\.avi' is a link"):
        unpack_archive(tmp_path / "set.rar", tmp_path / "out")


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.xz", ".rar"])
def test_an_archive_that_unpacks_to_far_more_than_videos_can_is_refused(
    tmp_path: Path, kind: str, rar_reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "MOST_UNPACKED", 1000)
    path, into = tmp_path / f"a{kind}", tmp_path / "out"
    write(path, {"a.avi": bytes(10), "b.avi": bytes(2_000_000)})
    if kind in (".zip", ".rar"):
        # Those of these tests store their members as they are.
        monkeypatch.setattr(unpack, "MOST_TIMES", 0)
    with pytest.raises(DataError, match=r"unpacks to more than .* no archive of videos"):
        unpack_archive(path, into)
    assert not (into / "b.avi").exists()


@pytest.mark.parametrize("kind", [".zip", ".tar", ".rar"])
def test_an_archive_that_the_disk_has_no_room_for_is_refused_before_it_is_full(
    tmp_path: Path, kind: str, rar_reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, into = tmp_path / f"a{kind}", tmp_path / "out"
    write(path, CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 2000, 2000))
    with pytest.raises(UsageError, match=r"2.0 kB free, .* needed for what a\..* unpacks to: free space, or choose"):
        unpack_archive(path, into)
    assert tree(into) == {}


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/b.avi", b"1")
        archive.writestr("a//b.avi", b"2")
    with pytest.raises(DataError, match=r"two members are named 'a/b\.avi'"):
        unpack_archive(tmp_path / "set.zip", tmp_path / "out")
    write_tar(tmp_path / "set.tar", {"a.avi": b"1", "a.avi/b.avi": b"2"})
    with pytest.raises(DataError, match="both a file and a folder"):
        unpack_archive(tmp_path / "set.tar", tmp_path / "out")


TWINS = (("set/A.avi", "set/a.avi"), ("set/caf\u00e9.avi", "set/cafe\u0301.avi"))
"""Names that are one on some disks: by case, and by how an accent is written."""


@pytest.mark.parametrize("kind", [".zip", ".tar", ".rar"])
@pytest.mark.parametrize("names", TWINS, ids=("case", "accent"))
def test_names_that_are_one_on_this_disk_are_refused(
    tmp_path: Path, kind: str, names: tuple[str, str], rar_reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / f"set{kind}"
    write(archive, {names[0]: b"1", names[1]: b"2"})
    unpack_archive(archive, tmp_path / "both")
    assert tree(tmp_path / "both") == {names[0]: b"1", names[1]: b"2"}
    exists = Path.exists

    def exists_folded(path: Path) -> bool:
        """As on a disk of a Mac or of Windows."""
        folded = unicodedata.normalize("NFC", str(path).casefold())
        return exists(path) or folded in {
            unicodedata.normalize("NFC", str(one).casefold()) for one in path.parent.iterdir()
        }

    monkeypatch.setattr(Path, "exists", exists_folded)
    with pytest.raises(DataError, match="are one name on this disk"):
        unpack_archive(archive, tmp_path / "one")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.5, 0.7, "end"])
def test_a_cut_off_archive_is_refused(tmp_path: Path, kind: str, left: float | str, rar_reader: str) -> None:
    if rar_reader != "stand-in" and kind == ".rar" and left == "end":
        pytest.skip("every file in it is whole, and these programs ask for no end")
    archive = tmp_path / f"set{kind}"
    write(archive, {f"{n}.avi": random_bytes(1500 + n) for n in range(20)})
    whole = archive.read_bytes()
    # A tar cut between two members has everything but its end mark.
    end = 20 * 2048 if kind == ".tar" else len(whole) - 4
    archive.write_bytes(whole[: end if left == "end" else int(len(whole) * float(left))])
    with pytest.raises(DataError) as caught:
        unpack_archive(archive, tmp_path / "out")
    assert str(caught.value).startswith(f"{archive}: ")
    assert "\n" not in str(caught.value)
    assert "fetch it again" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str, rar_reader: str) -> None:
    if kind == ".tar":
        pytest.skip("a tar has no sums of what it holds")
    if kind == ".rar" and rar_reader == "bsdtar":
        pytest.skip("bsdtar does not check a rar's sums")
    archive = tmp_path / f"set{kind}"
    write(archive, {f"{n}.avi": random_bytes(1500 + n) for n in range(20)})
    damaged = bytearray(archive.read_bytes())
    for place in range(len(damaged) // 2, len(damaged) // 2 + 40):
        damaged[place] ^= 0x55
    archive.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="fetch it again"):
        unpack_archive(archive, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("UCF101.rar", lambda p: write_zip(p, CONTENT), "by its name a rar archive, by its content zip"),
        ("set.zip", lambda p: write_rar(p, CONTENT), "by its name a zip archive, by its content rar"),
        ("set.tar", lambda p: shutil.copy(_gz(p), p), "by its name a tar archive, by its content gzip"),
        ("set.zip", lambda p: p.write_text("\n<!DOCTYPE html><html>404"), "by its content a web page"),
        ("set.rar", lambda p: p.write_text("hello" * 300), "by its content none that is known"),
        ("set.tar", lambda p: p.write_bytes(b"x" * 100), "by its content none that is known"),
        ("set.zip", lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
        ("set.tar.gz", lambda p: _gzip_of_nothing(p), "damaged or cut off"),
    ],
)
def test_another_type_than_its_name_says(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        unpack_archive(tmp_path / name, tmp_path / "out")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def _gz(path: Path) -> Path:
    write_tar(path.with_name("other.tar.gz"), CONTENT)
    return path.with_name("other.tar.gz")


def _gzip_of_nothing(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(b"no tar" * 500))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "set.zip", {"a.avi": b"1"})
    raw = bytearray((tmp_path / "set.zip").read_bytes())
    raw[6] |= 1  # the flag, in the member's header and in the directory's
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "set.zip").write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"cannot be unpacked here .*password required"):
        unpack_archive(tmp_path / "set.zip", tmp_path / "out")


def test_a_rar_without_an_unpacker_is_an_error_that_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write_rar(tmp_path / "set.rar", CONTENT)
    with pytest.raises(MissingError, match="neither unar nor bsdtar is installed"):
        unpack_archive(tmp_path / "set.rar", tmp_path / "out")
