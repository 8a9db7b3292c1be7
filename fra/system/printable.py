"""Text from outside (names of files, messages about them) as it is shown to people."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

_JOINERS = "\u200c\u200d"  # part of words in several scripts and of emoji; they hide and turn nothing
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, format (bidirectional too), surrogates, line ends


def printable(text: object) -> str:
    r"""One line of text in which nothing steers a terminal, breaks the line or turns its direction.

    Such characters are shown as escapes (`\x1b`, `\n`, `\u202e`), bytes of a name that are no UTF-8 as `\xff`.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python holds a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2 photos`, `24,000 photos`; `plural` where an s is not enough (`entry`, `entries`)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'laptop'?` after a name that is close to one of `names`, otherwise nothing."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
