"""What became of the rows of a file: counts, and agreement with the labels that the source gives."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Counts of the rows in an output, `resumed` of them from an earlier run.

    Attributes:
        malformed: rows without a label in what the model wrote.
        errors: rows that could not be read or judged.
        inconsistent: pairs whose two orders disagree, `ties` of them without a label by the tie rule.
        truth_ties: given labels that are ties.
        odd_truths: given labels that can't be read.
        seconds: wall time of this run.
        labels: how often each label was given.
        truths: task -> how often each (label or None, given label) came together.
    """

    rows: int = 0
    resumed: int = 0
    malformed: int = 0
    errors: int = 0
    inconsistent: int = 0
    ties: int = 0
    truth_ties: int = 0
    odd_truths: int = 0
    seconds: float = 0.0
    labels: Counter[int] = field(default_factory=Counter)
    truths: dict[str, Counter[tuple[int | None, int]]] = field(default_factory=dict)

    def count(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        inconsistent = row.get("consistent") is False
        self.inconsistent += inconsistent
        if row["label"] is not None:
            self.labels[row["label"]] += 1
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
            self.truths.setdefault(row["task"], Counter())[row["label"], row["truth"]] += 1

    @property
    def rows_per_second(self) -> float:
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0

    @property
    def facts(self) -> dict[str, str]:
        """Name -> what to tell the user about it; what doesn't apply is left out."""
        kept = f" ({self.resumed:,} kept from before)" if self.resumed else ""
        found = {"rows": f"{self.rows:,}{kept}", "malformed": f"{self.malformed:,}", "errors": f"{self.errors:,}"}
        if self.inconsistent:
            found["inconsistent"] = f"{self.inconsistent:,} (orders disagree), {self.ties:,} of them ties"
        for task, pairs in sorted(self.truths.items(), reverse=True):
            found[f"agreement, {task}"] = _agreement(pairs, correlate=task == "pointwise")
        if self.truth_ties or self.odd_truths:
            found["left out of it"] = f"{self.truth_ties:,} ties, {self.odd_truths:,} labels that can't be read"
        found["speed"] = f"{self.rows_per_second:,.1f} rows/s"
        found["labels"] = ", ".join(f"{label}: {count:,}" for label, count in sorted(self.labels.items())) or "none"
        return found

    def __str__(self) -> str:
        return "\n".join(f"{name:22}{text}" for name, text in self.facts.items())


def _agreement(pairs: Counter[tuple[int | None, int]], *, correlate: bool) -> str:
    """Of rows with a given label. A row that the judge gave none agrees with nothing."""
    equal = sum(count for (label, truth), count in pairs.items() if label == truth)
    text = f"{equal:,} of {pairs.total():,} given labels ({equal / pairs.total():.0%})"
    both = [pair for pair in pairs.elements() if pair[0] is not None]
    if correlate and all(len(set(side)) > 1 for side in zip(*both, strict=True)) and both:
        text += f", Pearson {statistics.correlation(*zip(*both, strict=True)):.2f}"
    return text
