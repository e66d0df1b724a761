"""Reads the tables that a benchmark printed."""


def rows_of(text: str) -> list[dict[str, str]]:
    """Returns every row of every Markdown table in a text, heading -> cell."""
    rows: list[dict[str, str]] = []
    heading: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = _cells(line)
        elif set(line) - set("|-: "):
            rows.append(dict(zip(heading, _cells(line), strict=True)))
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
