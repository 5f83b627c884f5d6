"""Words of messages that depend on numbers."""


def counted(count: int, noun: str) -> str:
    """`1 step`, `2 steps`, `1,000 steps`; of nouns in -s, -x and -ch the plural ends in -es."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}"
