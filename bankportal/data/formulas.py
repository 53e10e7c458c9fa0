"""Text that a spreadsheet would run as a formula, made harmless before the portal writes it into a CSV file.

A spreadsheet splits a file by the rules of its own locale: at semicolons or tabs as well as at commas, and it minds
quotes only where a field begins with one. So a formula may begin inside a cell as well as at its start.
"""

import re

from bankportal.domain.constraints import NUMBER

# How a formula begins: with a sign, which in East Asian settings may be a full-width one.
SIGNS = "=+@＝＋－＠-"
# Where some spreadsheet begins a field inside a cell. Some also drop these, and NUL, from a cell's beginning.
SEPARATORS = ";\t\n\r"
BREAKS = "\t\n\r\x00"
# White space and what does not show: some spreadsheets pass it over before a sign.
UNSEEN = r"\s\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
FIRST = re.compile(rf"[{BREAKS}]|[{UNSEEN}]*+[{SIGNS}]")
# A number between two separators stays one; before a cell's end it does not, as the next cell would go on with it.
INNER = re.compile(
    rf"([{SEPARATORS}])(?! *+{NUMBER.pattern} *+[{SEPARATORS}])(?=(?:(?![{SEPARATORS}])[{UNSEEN}\"])*+[{SIGNS}])"
)


def neutralise(rows: list[list[str]]) -> list[list[str]]:
    """Put an apostrophe before whatever a spreadsheet would take for a formula, in place; cells of numbers stay.

    All rows are equally wide. What was neutralised once, by this release or an earlier one, comes out as it would the
    first time: a file that is uploaded again does not grow.
    """
    columns = list(map("".join, zip(*rows, strict=True)))
    risky = [place for place, text in enumerate(columns) if any(sign in text for sign in SIGNS + BREAKS)]
    split = [place for place in risky if any(separator in columns[place] for separator in SEPARATORS)]
    for row in rows if risky else ():
        for place in risky:
            cell = row[place]
            if not cell[:1].isalnum() and FIRST.match(cell) and not NUMBER.fullmatch(cell.strip(" ")):
                row[place] = f"'{cell}"
        for place in split:
            row[place] = INNER.sub(r"\1'", row[place])
    return rows
