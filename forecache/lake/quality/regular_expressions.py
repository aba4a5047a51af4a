"""Regular expressions of Java, which Spark matches, as such of RE2, which DuckDB and Arrow match."""

import re

_LINE_END = r"\n\r\x{85}\x{2028}\x{2029}"
_END = rf"(?:\r\n|[{_LINE_END}])?\z"
_TAKES_RETURN = re.compile(r"\[\^|\\[sDW]|\r")
_WITHOUT_BLANKS = re.compile(r"\[\^(?:[^\]\\]|\\.)*?\\s(?:[^\]\\]|\\.)*\]")
_CLASSES = {"d": "0-9", "w": "a-zA-Z_0-9", "s": r" \t\n\x{0B}\f\r"}
_PUNCTUATION = set(r"\.-_/+*?()[]{}|^$@#%&!~,:;=<>'\"` ")
_PLAIN = re.compile(r"[^\\.\[\](){}|*+?^$]")
_REPEAT = re.compile(r"(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})\??(?![*+?{])")


def translate_regex(pattern: str) -> str | None:
    """Translate a regular expression of Java, which Spark matches, into one of RE2 that matches the same texts.

    None if it has anything else than literals, classes, groups, alternatives, repeats and anchors.
    """
    result, at, depth = "", 0, 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest[0] == "\\":
            translated, used = _translate_escape(rest[1:2]), 2
        elif rest[0] == "[":
            translated, used = _translate_class(rest)
        elif rest[0] == "(":
            used = 3 if rest.startswith("(?:") else 1
            translated = None if rest.startswith("(?") and used == 1 else "(?:"
            depth += 1
        elif rest[0] == ")":
            translated, used, depth = ")", 1, depth - 1
        elif rest[0] == "^":
            is_first = at == 0 or pattern[at - 1] in "|("
            translated, used = r"\A" if is_first else None, 1
        elif rest[0] == "$":
            is_last = depth == 0 and (len(rest) == 1 or rest[1] == "|")
            translated, used = _END if is_last else None, 1
        elif rest[0] == "|":
            translated, used = "|", 1
        elif rest[0] == ".":
            translated, used = f"[^{_LINE_END}]", 1
        elif match := _REPEAT.match(rest):
            can_repeat = at > 0 and pattern[at - 1] not in "(|^"
            translated, used = match[0] if can_repeat else None, match.end()
        else:
            translated, used = (rest[0] if _PLAIN.match(rest) else None), 1
        if translated is None or depth < 0:
            return None
        result, at = result + translated, at + used
    if depth != 0 or (_END in result and _TAKES_RETURN.search(_WITHOUT_BLANKS.sub("", pattern))):
        return None  # in Java no text ends between the two characters of a last line break
    return result


def _translate_escape(letter: str) -> str | None:
    if letter in _PUNCTUATION and letter:
        return "\\" + letter if letter not in "_ '\"`/@#%&!~,:;=<>" else letter
    name = _CLASSES.get(letter.lower()) if letter else None
    return None if name is None else f"[{'^' if letter.isupper() else ''}{name}]"


def _translate_class(rest: str) -> tuple[str | None, int]:
    """Translate a class in brackets: what it becomes, and the length of what it was."""
    at, result = 1, "["
    if rest[at : at + 1] == "^":
        at, result = 2, "[^"
    start = at
    while at < len(rest) and rest[at] != "]":
        if rest[at] == "\\":
            letter = rest[at + 1 : at + 2]
            part = _CLASSES.get(letter) or ("\\" + letter if letter and letter in r"\.-[]^$/+*?(){}|" else None)
            at += 2
        else:
            part = None if rest[at] in "[&" else "\\^" if rest[at] == "^" else rest[at]
            at += 1
        if part is None:
            return None, at
        result += part
    is_closed = at < len(rest) and at > start
    return (result + "]" if is_closed else None), at + 1
