"""Tables of text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Return the lines of a table with columns two spaces apart, aligned to the right except for those in `left`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for n in range(len(rows[0])):
        table.add_column(justify="left" if n in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(" ".join(cell.splitlines())) for cell in row))
    console = Console(width=10_000, color_system=None)
    with console.capture() as printed:
        console.print(table)
    return [line.rstrip() for line in printed.get().splitlines()]
