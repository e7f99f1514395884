"""Names: what a column, a tensor, a parameter or a model is called in protobuf, Python and Java.

A name that is an identifier already stays as it is. Any other is cleaned, and where cleaning leaves
nothing, or what another has, a few digits of the name's hash tell them apart.
"""

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

# Of a cleaned name; longer ones are cut and get their hash.
NAME_CHARS_MAX: Final = 64
_HASH_DIGITS: Final = 6

_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OTHERS: Final = re.compile(r"[^A-Za-z0-9_]+")
# Not keywords, but no names for what a method takes either.
_PYTHON_OWN: Final = frozenset({"self", "cls"})

_JAVA_OWN: Final = frozenset(
    {
        *("abstract", "assert", "boolean", "break", "byte", "case", "catch", "char", "class"),
        *("const", "continue", "default", "do", "double", "else", "enum", "extends", "false"),
        *("final", "finally", "float", "for", "goto", "if", "implements", "import", "instanceof"),
        *("int", "interface", "long", "native", "new", "null", "package", "private", "protected"),
        *("public", "return", "short", "static", "strictfp", "super", "switch", "synchronized"),
        *("this", "throw", "throws", "transient", "true", "try", "void", "volatile", "while"),
    }
)


def cleaned(name: str, role: str) -> str:
    """*name* as an identifier of ASCII letters, digits and underscores that begins with a letter.

    Args:
        name: Any text.
        role: What it names ("input", "model", ...): the beginning where *name* gives none.
    """
    plain = name
    if not _IDENTIFIER.fullmatch(name):
        letters = unicodedata.normalize("NFKD", name)
        ascii_only = "".join(char for char in letters if not unicodedata.combining(char))
        plain = _OTHERS.sub("_", ascii_only).strip("_")
    if not plain:
        return f"{role}_{hash_of(name)}"
    if plain[0].isdigit():
        plain = f"{role}_{plain}"
    if len(plain) > NAME_CHARS_MAX:
        plain = f"{plain[:NAME_CHARS_MAX].rstrip('_')}_{hash_of(name)}"
    return plain


def field_names(names: Sequence[str], role: str, own: Iterable[str] = ()) -> list[str]:
    """The field of each of *names*, all different.

    Whoever stands first keeps the plain name: list those first that were there first, and none is
    ever renamed for one that comes later. Fields also differ without their underscores and in lower
    case, since some languages write them so.

    Args:
        names: The originals, oldest first.
        role: What they name.
        own: Fields that are taken from the beginning.
    """
    taken = {_key(field) for field in own}
    fields = []
    for name in names:
        field = plain = cleaned(name, role)
        digits = _HASH_DIGITS
        while _key(field) in taken:
            field = f"{plain}_{hash_of(name, digits)}"
            digits += 1
        taken.add(_key(field))
        fields.append(field)
    return fields


def python_name(field: str) -> str:
    """*field* as Python may write it: a keyword gets an underscore."""
    return f"{field}_" if keyword.iskeyword(field) or field in _PYTHON_OWN else field


def java_package(package: str) -> str:
    """*package* as Java may write it: a keyword gets an underscore."""
    words = package.split(".")
    return ".".join(f"{word}_" if word in _JAVA_OWN else word for word in words)


def message_prefix(name: str) -> str:
    """What the messages of the model *name* begin with: "my-model" gives MyModel."""
    words = cleaned(name, "model").split("_")
    return "".join(word[:1].upper() + word[1:] for word in words)


def hash_of(name: str, digits: int = _HASH_DIGITS) -> str:
    """A few hexadecimal digits that depend on *name* alone, behind a letter."""
    return "x" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:digits]


def _key(field: str) -> str:
    return field.replace("_", "").lower()
