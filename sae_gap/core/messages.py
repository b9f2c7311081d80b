"""Foreign texts as they are shown in messages."""


def brief(error: BaseException) -> str:
    """The message of an exception, on one line."""
    return (
        printable(" ".join(str(error).split()), 200).rstrip(" .")
        or type(error).__name__
    )


def printable(text: str, most: int = 80) -> str:
    """A text from a file, safe to show in a message: on one line, not too long, and without
    terminal commands.
    """
    kept = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for letter in text[:most]
    )
    return kept if len(text) <= most else f"{kept}..."
