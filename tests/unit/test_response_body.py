"""Decompression of response bodies: in pieces, the same for every way the body is cut; a broken body is an error."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from fsm_runner.coordinator_client.response_body import PIECE_BYTES, decompressed

TEXT = b"".join(b"line %d\n" % number for number in range(20_000))


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two gzip members": ("gzip", lambda content: gzip.compress(content[:7]) + gzip.compress(content[7:])),
    "gzip and padding": ("gzip", lambda content: gzip.compress(content) + bytes(600)),
    "deflate": ("deflate", zlib.compress),
    "deflate without its frame": ("deflate", raw_deflate),
}


async def cut(packed: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(packed), size):
        yield packed[start : start + size]


async def pieces_of(packed: bytes, encoding: str, size: int = 1000) -> list[bytes]:
    return [piece async for piece in decompressed(cut(packed, size), encoding)]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
async def test_a_body_comes_out_as_it_went_in(form: str, size: int) -> None:
    encoding, pack = FORMS[form]
    for content in (TEXT, b"x", b""):
        assert b"".join(await pieces_of(pack(content), encoding, size)) == content


async def test_an_empty_body_may_be_labelled_too() -> None:
    for encoding in ("gzip", "deflate"):
        assert await pieces_of(b"", encoding) == []


async def test_no_piece_is_large() -> None:
    pieces = await pieces_of(gzip.compress(bytes(10_000_000)), "gzip", 1 << 20)
    assert max(map(len, pieces)) == PIECE_BYTES
    assert sum(map(len, pieces)) == 10_000_000


@pytest.mark.parametrize("form", FORMS)
async def test_a_body_that_breaks_off_is_an_error(form: str) -> None:
    encoding, pack = FORMS[form]
    packed = pack(TEXT).rstrip(b"\0")
    for length in (1, 15, len(packed) // 2, len(packed) - 5):
        with pytest.raises(httpx.DecodingError, match=f"is not valid {encoding}"):
            await pieces_of(packed[:length], encoding)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_bytes_of_another_format_are_an_error(encoding: str) -> None:
    with pytest.raises(httpx.DecodingError, match=f"is not valid {encoding}"):
        await pieces_of(b"\xffno such thing", encoding)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 10_000])
async def test_an_unsupported_encoding_is_named_with_the_remedy(encoding: str) -> None:
    with pytest.raises(httpx.DecodingError, match=r"compressed as .*turn off compression in the proxy") as raised:
        await pieces_of(TEXT, encoding)
    assert len(str(raised.value)) < 300
