"""A readout: what a judge's label log-probabilities stand for, learnt from held-out verdicts whose truth is known.

    probabilities = softmax(weights @ (log-probabilities - their mean) + bias)

A temperature is the case of weights = identity / temperature and no bias. A judge's file keeps one readout for each
task (`sre.readout`). Only fitting needs scikit-learn.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from recipe.errors import SreError

if TYPE_CHECKING:
    from recipe.data.records import Judgement

KEY = "sre.readout"
MIN_ROWS = 20
"""Fewer held-out rows fit nothing."""
MIN_PER_LABEL = 5
"""A label that fewer rows carry leaves only the temperature to fit."""
STRENGTH = 0.03
"""Inverse of the regression's L2 penalty. On cross-validated verdicts of small judges .01 to .1 did equally well."""
_FLOOR = 30.0  # nats below the most probable label; less is as good as impossible
_FOLDS = 5


@dataclass(frozen=True)
class Readout:
    """weights[i][k]: what the log-probability of labels[k] adds to labels[i]. rows: of the fit."""

    labels: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    rows: int = 0

    def __post_init__(self) -> None:
        size = len(self.labels)
        shaped = len(self.bias) == size > 1 and [len(row) for row in self.weights] == [size] * size
        if not shaped or not all(map(math.isfinite, (*self.bias, *(value for row in self.weights for value in row)))):
            raise ValueError(f"a readout of {size} labels takes {size} x {size} finite weights and {size} biases")

    def apply(self, logprobs: Mapping[int, float]) -> dict[int, float]:
        """The log-probabilities (nats) of the same labels; unchanged where they are on another scale."""
        if tuple(sorted(logprobs)) != self.labels or max(logprobs.values()) == -math.inf:
            return dict(logprobs)
        x = _centred(logprobs)
        scores = [
            bias + sum(weight * value for weight, value in zip(row, x, strict=True))
            for row, bias in zip(self.weights, self.bias, strict=True)
        ]
        most = max(scores)
        total = most + math.log(sum(math.exp(score - most) for score in scores))
        return {label: score - total for label, score in zip(self.labels, scores, strict=True)}


def read_readouts(metadata: Mapping[str, object]) -> dict[str, Readout]:
    """Task -> readout in a GGUF file's metadata; {} where it has none. Raises SreError for one of another shape."""
    try:
        found = json.loads(str(metadata.get(KEY, "{}")))
        return {
            task: Readout(
                tuple(map(int, one["labels"])),
                tuple(tuple(map(float, row)) for row in one["weights"]),
                tuple(map(float, one["bias"])),
                int(one["rows"]),
            )
            for task, one in found.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SreError(f"the file's readout can't be used ({error}); judge without it", field=KEY) from None


def write_readouts(readouts: Mapping[str, Readout]) -> dict[str, str]:
    """The metadata that `read_readouts` reads; {} for none."""
    return {KEY: json.dumps({task: asdict(readout) for task, readout in readouts.items()})} if readouts else {}


def fit_readout(judgements: Sequence[Judgement], prompts: Sequence[str]) -> tuple[Readout | None, dict[str, Any]]:
    """The readout that makes the truth most probable, and what it gains on rows that it wasn't fitted on.

    A temperature and a multinomial logistic regression are compared by cross-validation over prompts; the one with the
    lower log-loss is fitted on all rows.

    Args:
        judgements: Greedy judgements of one task, of rows that the judge was not trained on. Those without a truth or
            label log-probabilities are left out.
        prompts: The rows' prompt ids; rows of one prompt are held out together.

    Returns:
        The readout, None for too few rows, and {"rows", "kind", "log_loss": {"before", "temperature", "regression"}}.

    Raises:
        SreError: scikit-learn isn't installed.
    """
    import numpy as np

    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GroupKFold, cross_val_predict
    except ImportError:
        from recipe.errors import install

        raise SreError(f"fitting a readout needs scikit-learn: {install('eval')}") from None
    pairs = list(zip(judgements, prompts, strict=True))
    pairs = [(j, prompt) for j, prompt in pairs if j.truth in j.label_logprobs and len(j.label_logprobs) > 1]
    labels = tuple(sorted(pairs[0][0].label_logprobs)) if pairs else ()
    pairs = [(j, prompt) for j, prompt in pairs if tuple(sorted(j.label_logprobs)) == labels]
    groups = [prompt for _, prompt in pairs]
    if len(pairs) < MIN_ROWS or len(set(groups)) < _FOLDS:
        return None, {"rows": len(pairs)}
    x = np.array([_centred(j.label_logprobs) for j, _ in pairs])
    y = np.array([labels.index(j.truth or 0) for j, _ in pairs])
    folds = list(GroupKFold(_FOLDS).split(x, y, groups))
    cooled = np.empty_like(x)
    for fitted, held in folds:
        cooled[held] = x[held] / _temperature(x[fitted], y[fitted])
    losses = {"before": _surprise(x, y), "temperature": _surprise(cooled, y)}
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    counts = Counter(y.tolist())
    if min(counts[place] for place in range(len(labels))) >= MIN_PER_LABEL:
        said = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
        losses["regression"] = _surprise(np.log(np.maximum(said, 1e-9)), y)
    facts: dict[str, Any] = {
        "rows": len(pairs),
        "log_loss": {name: float(loss.mean()) for name, loss in losses.items()},
    }
    kind = min(losses.keys() - {"before"}, key=lambda name: facts["log_loss"][name])
    # A pair's readout may take off a preference for a position; it must not exchange the responses.
    if kind == "regression" and len(labels) == 2 and model.fit(x, y).coef_[0] @ (-1, 1) <= 0:
        kind = "temperature"
    if kind == "regression":
        model.fit(x, y)
        weights, bias = model.coef_, model.intercept_
        if len(labels) == 2:  # scikit-learn keeps the second label's scores alone
            weights, bias = np.vstack([0 * weights, weights]), np.array([0.0, bias[0]])
    else:
        weights, bias = np.eye(len(labels)) / _temperature(x, y), np.zeros(len(labels))
    rows = tuple(tuple(row) for row in weights.round(6).tolist())
    return Readout(labels, rows, tuple(bias.round(6).tolist()), len(pairs)), {**facts, "kind": kind}


def _temperature(x: Any, y: Any) -> float:
    """The temperature, from 1/4 to 64, under which the truth is most probable."""
    from scipy.optimize import minimize_scalar

    return float(2 ** minimize_scalar(lambda power: _surprise(x / 2**power, y).mean(), bounds=(-2, 6)).x)


def _surprise(scores: Any, y: Any) -> Any:
    """Each row's negative log-probability (nats) of its truth, the place y among the labels."""
    from scipy.special import log_softmax

    return -log_softmax(scores, axis=1)[range(len(y)), y]


def _centred(logprobs: Mapping[int, float]) -> list[float]:
    """The log-probabilities by ascending label, less their mean."""
    lowest = max(logprobs.values()) - _FLOOR
    values = [max(logprobs[label], lowest) for label in sorted(logprobs)]
    mean = sum(values) / len(values)
    return [value - mean for value in values]
