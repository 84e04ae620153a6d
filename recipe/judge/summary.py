"""What became of the rows of a file: counts, agreement with given labels, and the table that ends `sre judge`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recipe.judge.output_rows import Usage

if TYPE_CHECKING:
    from rich.table import Table

_BAR = 40


@dataclass
class Agreement:
    """How labels stand to given ones (truths), over the judged rows of one task that have one.

    A row without a label agrees with nothing. `sums` are those of x, y, xx, yy and xy over the rows with both.
    """

    rows: int = 0
    equal: int = 0
    labelled: int = 0
    sums: tuple[float, ...] = (0.0,) * 5

    def count(self, label: int | None, truth: int) -> None:
        self.rows += 1
        if label is not None:
            self.equal += label == truth
            self.labelled += 1
            added = (label, truth, label * label, truth * truth, label * truth)
            self.sums = tuple(total + more for total, more in zip(self.sums, added, strict=True))

    @property
    def pearson(self) -> float | None:
        """None where it is undefined: all labels, or all truths, are equal."""
        n, (x, y, xx, yy, xy) = self.labelled, self.sums
        spread = (n * xx - x * x) * (n * yy - y * y)
        return (n * xy - x * y) / math.sqrt(spread) if spread > 0 else None


@dataclass
class Summary:
    """Counts of the rows in an output, `resumed` of them from an earlier run.

    Attributes:
        malformed: judged rows without a label.
        errors: rows that could not be read or judged.
        inconsistent: pairs whose two orders disagree, `ties` of them without a label by the tie rule.
        labels: how often each label was given.
        agreement: by task, with the labels that the source gives.
        truth_ties: given labels that are ties.
        odd_truths: given labels that can't be read.
        seconds: wall time of this run.
        usage: what the engine did in this run.
    """

    rows: int = 0
    resumed: int = 0
    malformed: int = 0
    errors: int = 0
    inconsistent: int = 0
    ties: int = 0
    seconds: float = 0.0
    labels: dict[int, int] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    truth_ties: int = 0
    odd_truths: int = 0
    usage: Usage = field(default_factory=Usage)

    def count(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        inconsistent = row.get("consistent") is False
        self.inconsistent += inconsistent
        if row["label"] is not None:
            self.labels = dict(sorted({**self.labels, row["label"]: self.labels.get(row["label"], 0) + 1}.items()))
        elif row["finish"] == "error":
            self.errors += 1
        elif inconsistent:
            self.ties += 1
        else:
            self.malformed += 1
        if note := row.get("truth_note"):
            self.truth_ties += note == "tie"
            self.odd_truths += note != "tie"
        if row.get("truth") is not None and row["finish"] != "error":
            self.agreement.setdefault(row["task"], Agreement()).count(row["label"], row["truth"])

    @property
    def rows_per_second(self) -> float:
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0

    @property
    def facts(self) -> dict[str, str]:
        """Name -> what the table says about it; what doesn't apply is left out."""
        kept = f" ({self.resumed:,} kept from before)" if self.resumed else ""
        found = {
            "rows": f"{self.rows:,}{kept}",
            "malformed": f"{self.malformed:,}",
            "errors": f"{self.errors:,}",
        }
        if self.inconsistent:
            found["inconsistent"] = f"{self.inconsistent:,} (orders disagree), {self.ties:,} of them ties"
        for task, agreement in sorted(self.agreement.items(), reverse=True):
            pearson = agreement.pearson if task == "pointwise" else None
            found[f"agreement, {task}"] = (
                f"{agreement.equal:,} of {agreement.rows:,} given labels ({agreement.equal / agreement.rows:.0%})"
                + (f", Pearson {pearson:.2f}" if pearson is not None else "")
            )
        if self.truth_ties or self.odd_truths:
            found["left out of it"] = f"{self.truth_ties:,} ties, {self.odd_truths:,} labels that can't be read"
        found["speed"] = f"{self.rows_per_second:,.1f} rows/s"
        if self.usage.prompt_tokens:
            reused = self.usage.prompt_tokens - self.usage.decoded_tokens
            found["prompt tokens"] = f"{self.usage.prompt_tokens:,}, {max(reused, 0):,} of them reused"
        if self.usage.new_tokens:
            found["new tokens"] = f"{self.usage.new_tokens:,}"
        if self.usage.peak_mb:
            found["peak memory"] = f"{self.usage.peak_mb:,} MiB"
        return found

    def __str__(self) -> str:
        labels = ", ".join(f"{label}: {count}" for label, count in self.labels.items())
        return "; ".join([*(f"{name} {text}" for name, text in self.facts.items()), f"labels {labels or 'none'}"])

    def table(self) -> Table:
        """For a terminal: the facts, and a bar for each label."""
        from rich.table import Table

        table = Table(title="Judged", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, text in self.facts.items():
            table.add_row(name, text)
        table.add_section()
        most = max(self.labels.values(), default=0)
        for label, count in self.labels.items():
            # At least a sliver, so that a rare label is not taken for an absent one.
            bar = "█" * round(_BAR * count / most) or "▏"
            table.add_row(f"label {label}", f"{bar} {count:,}")
        return table
