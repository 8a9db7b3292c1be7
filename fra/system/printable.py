"""Text from outside (names of files, messages about them) as it is shown to people."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_JOINERS = "\u200c\u200d"  # part of words in several scripts and of emoji; they hide and turn nothing
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, format (bidirectional too), surrogates, line ends


def printable(text: object) -> str:
    r"""One line of text in which nothing steers a terminal, breaks the line or turns its direction.

    Such characters are shown as escapes (`\x1b`, `\n`, `\u202e`), bytes of a name that are no UTF-8 as `\xff`.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/]*@)?([^\s?]*)(\?[^\s'\"`]*)?")


def without_secrets(text: str) -> str:
    """The text with addresses (`https://user:secret@host/file?signature=...`) less user, password and query."""
    return _ADDRESS.sub(r"\1\2", text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python holds a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2 photos`, `24,000 photos`; `plural` where an s is not enough (`entry`, `entries`)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_of(lines: Sequence[str], more: str, plural: str | None = None, *, shown: int = 10) -> list[str]:
    """The first lines, and how many others there are: `and 250 more photos`, for `more` as `more photo`."""
    rest = len(lines) - shown
    return list(lines) if rest <= 0 else [*lines[:shown], f"and {counted(rest, more, plural)}"]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    whole = round(seconds)
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def did_you_mean(name: str, names: Iterable[str], *, most: int = 3) -> str:
    """`; did you mean 'a', 'b' or 'c'?` after a name that is like some of `names`, otherwise nothing.

    Those come first that contain its words in their order (`laptop/fra` is in `laptop/resnet10_half.fra`), then those
    that are spelled alike. Initials count as a name: `lr` is `optimizer.learning_rate`.
    """
    every, words = list(names), _words(name)
    pattern = ".*".join(map(re.escape, words))
    containing = [other for other in every if words and re.search(pattern, other.lower())]
    containing += [other for other in every if words == ["".join(word[0] for word in _words(other.split(".")[-1]))]]
    near = [f"'{other}'" for other in dict.fromkeys([*containing, *get_close_matches(name, every, n=most)])][:most]
    return f"; did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?" if near else ""


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]
