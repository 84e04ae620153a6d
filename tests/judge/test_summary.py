"""The table that ends `sre judge`."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from recipe.judge.output_rows import Usage
from recipe.judge.summary import Summary


def row(label: int | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {"label": label, "finish": finish, **more}


def test_every_row_is_counted_as_one_thing() -> None:
    summary = Summary()
    for found in (
        row(4),
        row(2),
        row(4),
        row(None),
        row(None, "error"),
        row(None, consistent=False),
        row(1, consistent=False),
        row(1, consistent=True),
    ):
        summary.count(found)
    assert summary.labels == {1: 2, 2: 1, 4: 2}
    assert (summary.rows, summary.malformed, summary.errors) == (8, 1, 1)
    assert (summary.inconsistent, summary.ties) == (2, 1)


def test_an_empty_summary_divides_by_nothing() -> None:
    assert Summary().rows_per_second == 0
    assert "labels none" in str(Summary())


def test_the_summary_reads_in_one_line() -> None:
    summary = Summary(rows=5, resumed=1, malformed=1, seconds=2.0, labels={3: 3, 4: 1}, usage=Usage(9, 3, 4, 7))
    assert str(summary) == (
        "rows 5 (1 kept from before); malformed 1; errors 0; speed 2.0 rows/s; prompt tokens 9, 6 of them reused; "
        "new tokens 4; peak memory 7 MiB; labels 3: 3, 4: 1"
    )


def test_the_table_draws_a_bar_for_each_label_in_proportion() -> None:
    text = io.StringIO()
    Console(width=100, file=text).print(Summary(rows=1011, labels={1: 1, 3: 1000, 5: 500}, seconds=1.0).table())
    shown = {line.split()[2]: line for line in text.getvalue().splitlines() if " label " in line}
    assert {label: line.count("█") for label, line in shown.items()} == {"1": 0, "3": 40, "5": 20}
    assert "▏ 1 " in shown["1"]
    assert "1,000" in shown["3"]
