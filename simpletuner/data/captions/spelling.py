"""One spelling for each text, whatever program and alphabet it was written with."""

from __future__ import annotations

import codecs
import re
import unicodedata


def canonical(text: str) -> str:
    """The one spelling of a caption: no byte order mark, Unix line ends, no blanks at line ends, composed letters."""
    stripped = text.strip()
    # Most captions are one line of plain letters, and there may be a million of them.
    if stripped.isascii() and stripped.isprintable():
        return stripped
    whole = composed(_encodable(text).replace("\ufeff", ""))
    return "\n".join(line.rstrip() for line in whole.splitlines()).strip()


def composed(name: str) -> str:
    """The one spelling of the name of a file: a Mac may write é as e and an accent, as no other system does."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def decode_text(data: bytes) -> str:
    """The text of a caption file: UTF-8, UTF-16, the Chinese alphabet GBK, or else that of Windows in the West."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", errors="replace")
    for encoding in ("utf-8-sig", "gb2312" if _in_pairs(data) else "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", errors="replace")


def _encodable(text: str) -> str:
    """Halves of letters, which JSON can hold, have no bytes and so could not be encoded later."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _in_pairs(data: bytes) -> bool:
    """Whether foreign letters take two bytes each: accents of the West stand alone between plain letters."""
    return all(len(run) % 2 == 0 for run in _FOREIGN.findall(data))


_FOREIGN = re.compile(rb"[\x80-\xff]+")
