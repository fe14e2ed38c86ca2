"""Arbitrary archives of scripts."""

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.scripts.store import BadScript, install
from tests.support.script_archives import script_command

DESCRIPTION = b'{"name": "tidy", "script_file": "run.sh"}'

parts = st.sampled_from(
    ["tidy", "Tidy", "..", ".", "", "a", "A", "run.sh", "script.json", "\u00fc", "u\u0308", "\0", "\n"]
)
names = st.lists(parts, min_size=1, max_size=4).map("/".join) | st.text(st.characters(), max_size=10)
kinds = st.sampled_from(
    [
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z"),
    ]
)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(draw(names))
    member.type = draw(st.just(tarfile.REGTYPE) | kinds)
    member.mode = draw(st.integers(0, 0o7777))
    member.linkname = draw(names) if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    content = draw(st.binary(max_size=20)) if member.isreg() else b""
    member.size = len(content)
    return member, content


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    chosen = draw(st.lists(members(), max_size=5))
    if draw(st.booleans()):
        for name, content in (("tidy/script.json", DESCRIPTION), ("tidy/run.sh", b"echo")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            chosen.insert(draw(st.integers(0, len(chosen))), (member, content))
    buffer = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogatepass") as tar:
        for member, content in chosen:
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(damaged(draw, buffer.getvalue()), compresslevel=1)


def damaged(draw: st.DrawFn, tar: bytes) -> bytes:
    damage = bytearray(tar)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 5]))):
        damage[draw(st.integers(0, min(len(damage), 3000) - 1))] = draw(st.integers(0, 255))
    return bytes(damage)


@given(archives() | st.binary(max_size=100) | st.binary(max_size=100).map(gzip.compress))
def test_any_archive_is_installed_or_rejected_and_changes_no_other_files(archive: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        around = Path(folder).resolve()
        project_dir = around / "project"
        project_dir.mkdir()
        (around / "precious").write_text("as it was")
        try:
            install(project_dir, "tidy", archive)
        except BadScript:
            assert not (project_dir / "scripts/tidy").exists()
        else:
            assert Path(script_command(project_dir, "tidy")[-1]).is_file()
        assert {path.name for path in around.iterdir()} == {"project", "precious"}
        assert (around / "precious").read_text() == "as it was"
        assert {path.name for path in project_dir.iterdir()} <= {"scripts"}
        assert {path.name for path in project_dir.glob("scripts/[!.]*")} <= {"tidy"}
        for path in project_dir.rglob("*"):
            # The only link is the one to the script's current version.
            assert not path.is_symlink() or path == project_dir / "scripts/tidy"
            assert path.is_dir() or path.is_file()
