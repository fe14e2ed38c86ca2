"""Archives of scripts that the store rejects."""

import gzip
import os
import tarfile
from pathlib import Path

import pytest

from fsm_runner.scripts import archive as archive_module
from fsm_runner.scripts.store import BadScript, install
from tests.support.script_archives import INSTALLED, archive, description, file, files_in, output_of, script, special

VALID = file("tidy/script.json", description()), file("tidy/run.sh", b"echo two")


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"", "not a valid gzip tar"),
        (b"<html>not found</html>", "not a valid gzip tar"),
        (gzip.compress(b"no tar" * 1000, mtime=0), "not a valid gzip tar"),
        (script()[:-30], "not a valid gzip tar"),
        (archive(), "script.json in its archive does not exist"),
        (archive(file("tidy/run.sh")), "script.json in its archive does not exist"),
        (archive(file("tidy/script.json", b"{")), "script.json in its archive"),
        (archive(file("tidy/script.json", b"[]")), "Expected `object`"),
        (archive(file("tidy/script.json", b'{"name": "tidy"}')), "script_file"),
        (archive(file("tidy/script.json", description(3))), r"\$.script_file"),
        (archive(file("tidy/script.json", description())), "'run.sh' does not exist"),
        (archive(file("tidy/script.json", description(""))), "script_file"),
        (archive(file("tidy/script.json", description("."))), "script_file"),
        (archive(file("tidy/script.json", description("/bin/sh"))), "not a path inside"),
        (archive(file("tidy/script.json", description("../tidy/script.json"))), "not a path inside"),
        (archive(file("tidy/script.json", description("a\0b"))), "not a path inside"),
        (archive(*VALID, file("tidy/../../evil")), "not inside the folder tidy/"),
        (archive(*VALID, file("../evil")), "not inside the folder tidy/"),
        (archive(*VALID, file("/evil")), "not inside the folder tidy/"),
        (archive(*VALID, file("evil")), "not inside the folder tidy/"),
        (archive(*VALID, file("other/run.sh")), "not inside the folder tidy/"),
        (archive(*VALID, special("tidy/link", tarfile.SYMTYPE, "/etc/passwd")), "neither a regular file nor a folder"),
        (archive(*VALID, special("tidy/link", tarfile.LNKTYPE, "tidy/run.sh")), "neither a regular file nor a folder"),
        (archive(*VALID, special("tidy/fifo", tarfile.FIFOTYPE)), "neither a regular file nor a folder"),
        (archive(*VALID, special("tidy/null", tarfile.CHRTYPE)), "neither a regular file nor a folder"),
        (archive(*VALID, file("tidy/RUN.SH")), "the same name on file systems that ignore case"),
        (archive(*VALID, file("tidy/a/x"), file("tidy/A/y")), "the same name on file systems that ignore case"),
        (archive(*VALID, file("tidy/run.sh", b"echo three")), "twice"),
        (archive(*VALID, file("tidy/run.sh/x")), "twice, or as both a file and a folder"),
        (archive(*VALID, file("tidy/x/y"), file("tidy/x")), "twice, or as both a file and a folder"),
        (archive(*VALID, file("tidy/a\nb")), "characters that are not allowed"),
        (archive(*VALID, file("tidy/" + "x" * 300)), "File name too long"),
        (archive(*VALID, file("tidy/" + "d/" * 2000 + "f")), "deeper than 50 folders"),
        (archive(*VALID, file("tidy/a", mode=0o4755)), "setuid or setgid bit"),
        (archive(*VALID, file("tidy/a", mode=0o2755)), "setuid or setgid bit"),
        (archive(*VALID, *(file(f"tidy/{n}") for n in range(1000))), "more than 1,000 members"),
        (archive(*VALID, file("tidy/a", bytes(40 << 20)), file("tidy/b", bytes(40 << 20))), "more than 64 MiB"),
        (archive(*VALID, file("tidy/a", bytes(80 << 20))), "more than 64 MiB"),
    ],
)
def test_a_bad_archive_is_rejected_and_the_old_version_kept(tmp_path: Path, packed: bytes, reason: str) -> None:
    install(tmp_path, "tidy", script())
    with pytest.raises(BadScript, match=reason) as raised:
        install(tmp_path, "tidy", packed)
    assert "`tidy`" in str(raised.value)
    assert ".incoming" not in str(raised.value) or "File name too long" in reason
    assert output_of(tmp_path) == "one\n"
    assert files_in(tmp_path) == INSTALLED


def test_a_sparse_file_counts_with_its_unpacked_size(tmp_path: Path) -> None:
    """The header in GNU's sparse format claims 100 GB without content."""
    member = tarfile.TarInfo("tidy/holes")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + (100 << 30).to_bytes(11)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    sound = gzip.decompress(script())[: 4 * 512]
    with pytest.raises(BadScript, match="more than 64 MiB"):
        install(tmp_path, "tidy", gzip.compress(sound + bytes(header) + bytes(10240)))


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\x7f" * 11])
def test_impossible_sizes_are_rejected(tmp_path: Path, size: bytes) -> None:
    header = bytearray(tarfile.TarInfo("tidy/x").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BadScript):
        install(tmp_path, "tidy", gzip.compress(bytes(header) + bytes(10240)))


def test_a_huge_extended_header_is_rejected(tmp_path: Path) -> None:
    member = tarfile.TarInfo("tidy/x")
    member.type = tarfile.XHDTYPE
    member.size = 200 << 20
    packed = gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + bytes(200 << 20), compresslevel=1)
    with pytest.raises(BadScript, match="more than 64 MiB"):
        install(tmp_path, "tidy", packed)


def test_the_limits_leave_room_for_what_they_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MEMBERS_LIMIT", 5)
    monkeypatch.setattr(archive_module, "UNPACKED_LIMIT_BYTES", 10_000)
    used = len(description()) + len("echo one")
    long_names = [file(f"tidy/{n}{'ü' * 100}") for n in range(2)]
    packed = archive(
        file("tidy/script.json", description()),
        file("tidy/run.sh", b"echo one"),
        *long_names,
        file("tidy/rest", os.urandom(10_000 - used)),
    )
    install(tmp_path, "tidy", packed)
    assert len(files_in(tmp_path / "scripts/tidy")) == 5
