"""Rules that judge without a model, and what any judge or rule says about one row. Pure; scikit-learn fits two rules.

A judge that does no better than these has learnt a shortcut: that longer answers win, which criteria get high scores,
or which position is the better one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from recipe.data.records import Example, Judgement

LONGER = "longer response"
CRITERION = "criterion mean (train)"
FITTED = "length, criterion and reference (fitted on train)"
MAJORITY = "majority label"
FIRST = "first position"
SECOND = "second position"
TIE = 1.5  # the label of a rule that can't tell two responses apart; it counts as half right
MIN_TRAIN = 20  # fewer labelled training rows give no rule that is fitted on them


class RowVerdict(NamedTuple):
    """What a rule says about one row; the fields are those of a Judgement that measuring needs.

    label: a score, or 1 or 2 for the better response (TIE for neither); None where a judgement is malformed, and of a
    rule that gives no label. expected_score: the finer score, or 1 + P(the second response is better).
    """

    label: float | None
    expected_score: float | None
    label_probabilities: dict[int, float]
    rationale: str


Said = RowVerdict | Judgement  # what a judge or a rule says about one row


def trivial_baselines(rows: Sequence[Example], train: Sequence[Example] = ()) -> dict[str, list[RowVerdict]]:
    """The rules' verdicts on labelled rows of one task, by the rule's name.

    train: labelled rows, of which those of the same task count. Without enough of them the rules that learn from
    training rows are left out, and the majority label is that of `rows` themselves.
    """
    if not rows:
        return {}
    pairwise = rows[0].task == "pairwise"
    known = [row for row in train if row.task == rows[0].task and row.label is not None]
    lengths = [_length(row) for row in rows]
    found = {LONGER: [_preference(TIE + 0.5 * _sign(x)) if pairwise else _rule(None, x) for x in lengths]}
    if len(known) >= MIN_TRAIN:
        low, high = min(row.label or 0 for row in known), max(row.label or 0 for row in known)
        for name, values in zip((CRITERION, FITTED), _learnt(known, rows), strict=True):
            found[name] = [
                _preference(value) if pairwise else _rule(min(max(math.floor(value + 0.5), low), high), value)
                for value in values
            ]
    counts = Counter(row.label for row in known or rows)
    majority = min(counts, key=lambda label: (-counts[label], label))
    found[MAJORITY] = [_rule(majority, majority or 0)] * len(rows)
    if pairwise:
        found |= {FIRST: [_rule(1, 1)] * len(rows), SECOND: [_rule(2, 2)] * len(rows)}
    return found


def longer_response(row: Example) -> int | None:
    """Which response of a pair has more characters; None where they have equally many."""
    sign = _sign(len(row.responses[1]) - len(row.responses[0]))
    return None if sign == 0 else 1 if sign < 0 else 2


def _learnt(train: Sequence[Example], rows: Sequence[Example]) -> tuple[list[float], list[float]]:
    """For each row the mean training label of its criterion, and a prediction from that, length and reference."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler, TargetEncoder

    def criteria(some: Sequence[Example]) -> Any:
        return np.array([[row.rubric.criteria] for row in some], dtype=object)

    def table(some: Sequence[Example], criterion: Any) -> Any:
        return np.column_stack([criterion, [_length(row) for row in some], [bool(row.reference) for row in some]])

    labels = np.array([row.label for row in train], dtype=float)
    encoder = TargetEncoder(target_type="continuous", smooth=0.0)  # plain means; that of all for an unknown criterion
    known = np.empty((len(train), 1))
    # A training row's own label is no part of its criterion's mean.
    for fitted, held in KFold(5, shuffle=True, random_state=0).split(labels):
        known[held] = encoder.fit(criteria(train)[fitted], labels[fitted]).transform(criteria(train)[held])
    means = encoder.fit(criteria(train), labels).transform(criteria(rows))[:, 0]
    if len(set(labels)) == 1:
        return means.tolist(), means.tolist()
    pairwise = train[0].task == "pairwise"
    model = make_pipeline(StandardScaler(), LogisticRegression() if pairwise else Ridge())
    model.fit(table(train, known), labels)
    new = table(rows, means)
    return means.tolist(), (1 + model.predict_proba(new)[:, 1] if pairwise else model.predict(new)).tolist()


def _length(row: Example) -> float:
    """The logarithm of the response's length; for a pair that of the second minus that of the first."""
    *first, last = (math.log1p(len(response)) for response in row.responses)
    return last - sum(first)


def _preference(value: float) -> RowVerdict:
    return _rule(TIE + 0.5 * _sign(value - TIE), value)


def _rule(label: float | None, score: float) -> RowVerdict:
    return RowVerdict(label, score, {}, "")


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
