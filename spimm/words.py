"""Words of messages that depend on numbers."""


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`, `1,000 steps`; nouns in -s, -x, -nch and -tch take -es."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "nch", "tch")) else "s"
    return f"{count:,} {noun}{ending}"
