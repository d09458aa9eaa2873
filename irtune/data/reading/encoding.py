"""From bytes to text: what is recognised, and what an encoding looks like that the user has to name."""

import codecs
import re

from irtune.data.dataset import DataError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The mark of UTF-16 begins that of UTF-32.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "mac_roman"),
    *("shift_jis", "cp932", "euc_jp", "gb18030", "gbk", "big5", "euc_kr", "cp949", "iso8859_2", "iso8859_5"),
)
_SAMPLE_BYTES = 50_000
_WESTERN = frozenset("£€§°±²³½¼´·«»“”‘’„–—…•©®™¡¿\xa0ÀÁÂÄÇÈÉÊËÍÑÓÔÖÚÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüœ")


def check_encoding(name: str) -> str:
    """``name`` if it is an encoding of text.

    Raises:
        ValueError: If it is none.
    """
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError(
            f"unknown encoding {name!r}; for example utf-8, utf-16, cp1252, latin-1, shift_jis, gb18030"
        ) from error
    return name


def decode(raw: bytes, source: str, encoding: str | None) -> tuple[str, str]:
    """The text of a file, and what was guessed or looks doubtful about its encoding.

    Args:
        raw: All of it.
        source: The file, as messages name it.
        encoding: What the user says; None recognises UTF-8, and UTF-16 and UTF-32 with a byte order mark.

    Raises:
        DataError: If these bytes are no text in that encoding; it names the line and what the bytes look like.
    """
    if encoding is not None:
        return _decode_as(encoding, raw, source)
    marked, note = marked_as(raw, source)
    try:
        text = raw.decode(marked or "utf-8")
    except UnicodeDecodeError as error:
        if marked:
            raise DataError(
                f"{source}: begins as {marked}, and is none at byte {error.start}. Save it anew."
            ) from error
        raise DataError(_not_utf8(raw, source, error.start)) from error
    return text, note


def marked_as(head: bytes, source: str) -> tuple[str | None, str]:
    """The encoding that a file's byte order mark says, None without one, and a note where it is not UTF-8.

    Args:
        head: Its first bytes, 4000 or more, or all of it.
        source: The file, as messages name it.

    Raises:
        DataError: If it has no mark and looks as if it should have one.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    wide = None if marked else _wide(head)
    if wide:
        raise DataError(f"{source}: is not UTF-8; it looks like {wide}. Set data.encoding={wide}, or save it as UTF-8.")
    note = f"{source}: read as {marked.upper()} (data.encoding)" if marked and "sig" not in marked else ""
    return marked, note


def _decode_as(encoding: str, raw: bytes, source: str) -> tuple[str, str]:
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = raw.count(b"\n", 0, start) + 1
        raise DataError(
            f"{source}:{line}: is not {encoding} (data.encoding): {_shown(raw, start)}. {_remedy(raw, encoding)}"
        ) from error
    utf8 = codecs.lookup("utf-8")
    doubtful = codecs.lookup(encoding) != utf8 and not raw.isascii() and _is_utf8(raw) and b"\0" not in raw
    note = f"{source}: read as {encoding} as data.encoding says, though it is valid UTF-8" if doubtful else ""
    return text.removeprefix("\ufeff"), note


def _remedy(raw: bytes, encoding: str) -> str:
    if _is_utf8(raw):
        return "Leave data.encoding out: the file is UTF-8."
    looks = looks_like(raw)
    if looks and looks != encoding:
        return f"It looks like {looks}: set data.encoding={looks}, or save it as UTF-8."
    return "Set data.encoding to the encoding that it was saved in, or save it as UTF-8."


def _not_utf8(raw: bytes, source: str, start: int) -> str:
    lines = raw.split(b"\n")
    foreign = [number for number, line in enumerate(lines, 1) if not line.isascii() and not _is_utf8(line)]
    proper = sum(not line.isascii() for line in lines) - len(foreign)
    first = raw.count(b"\n", 0, start) + 1
    where = f"{source}:{first}: is not UTF-8: {_shown(raw, start)}"
    looks = looks_like(b"\n".join(lines[number - 1] for number in foreign))
    if proper and looks and len(foreign) <= 2 * proper:
        others = f"{len(foreign)} lines look like {looks}, and {proper} are UTF-8"
        return f"{where}; {others}. Save the whole file in one encoding; data.encoding reads all of it as one."
    if not looks:
        return f"{where}. Set data.encoding to the encoding that it was saved in, or save it as UTF-8."
    line = lines[foreign[0] - 1] if foreign else raw[max(0, start - 40) : start + 40]
    reads = line.decode(looks, errors="replace").strip()
    shown = reads if len(reads) <= 60 else f"{reads[:60]}…"
    where += f"; it looks like {looks}, in which this reads {shown!r}"
    return f"{where}. Set data.encoding={looks}, or save it as UTF-8."


def looks_like(raw: bytes) -> str | None:
    """The encoding that bytes which are no UTF-8 are most likely in; None where none fits."""
    foreign = [line for line in raw.split(b"\n") if not line.isascii()]
    sample = b"\n".join(foreign)[:_SAMPLE_BYTES]
    if not sample:
        return None
    # A few signs among Latin letters are too few to count frequencies, so these two go by which signs they are.
    if sum(byte >= 0x80 for byte in sample) < 0.2 * len(sample):
        western = next((name for name in ("cp1252", "mac_roman") if _is_western(sample, name)), None)
        if western:
            return western
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(_CANDIDATES)).best()
    return None if best is None else str(best.encoding)


def _is_western(sample: bytes, encoding: str) -> bool:
    """Return whether nearly all that is not ASCII is a letter or sign of Western European text."""
    try:
        foreign = [character for character in sample.decode(encoding) if not character.isascii()]
    except UnicodeDecodeError:
        return False
    return sum(character in _WESTERN for character in foreign) >= 0.9 * len(foreign)


def _wide(raw: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, by where the zero bytes of its ASCII characters stand."""
    sample = raw[:4000]
    if len(sample) < 8 or sample.count(0) < len(sample) // 5:
        return None
    zeros = [sample[offset::4].count(0) / len(sample[offset::4]) for offset in range(4)]
    often = "".join("0" if share > 0.5 else "x" for share in zeros)
    return {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(often)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _shown(raw: bytes, start: int) -> str:
    before = re.split(rb"[\r\n]", raw[max(0, start - 20) : start])[-1].decode("ascii", errors="replace")
    return f"byte 0x{raw[start]:02x} after {before!r}" if start < len(raw) else "it ends within a character"
