"""Reads LiveCodeBench's private tests: JSON text, pickled, packed by zlib, written in base64. PURE.

A pickle is a program that can call anything. Its operations are listed here, and never run: only those that write down
one text are accepted.
"""

import base64
import binascii
import pickletools
import re
import zlib

MAX_BYTES = 2**28  # of one problem's tests when unpacked: a small column could otherwise fill the memory
ZLIB_TEXT = re.compile(r"\s*e[AFJN][A-Za-z0-9+/\s]{6,}={0,2}\s*")  # zlib's header in base64
FRAMING = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
TEXT = {"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"}


def decompress_tests(text: str) -> str | None:
    """Return the JSON text in a compressed column; None if `text` is none.

    Raises ValueError for one that is damaged, too large, or holds anything but a text.
    """
    if ZLIB_TEXT.fullmatch(text) is None:
        return None
    try:
        packed = base64.b64decode(text)
    except binascii.Error:  # words that begin like it
        return None
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"compressed tests cannot be unpacked ({error})") from error
    if not unpacker.eof:
        raise ValueError(f"compressed tests are cut off, or have more than {MAX_BYTES:,} bytes")
    return _read_pickled_text(content) if content[:1] == b"\x80" else content.decode()


def _read_pickled_text(content: bytes) -> str:
    texts = []
    try:
        for operation, argument, _ in pickletools.genops(content):
            if operation.name in TEXT:
                texts.append(str(argument))
            elif operation.name not in FRAMING:
                raise ValueError(f"compressed tests are a pickle with {operation.name}; a text alone is read")
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"compressed tests are a damaged pickle ({error})") from error
    if len(texts) != 1:
        raise ValueError(f"compressed tests are a pickle of {len(texts)} texts; one is read")
    return texts[0]
