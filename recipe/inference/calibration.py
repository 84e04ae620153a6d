"""Calibration: what a judge's label log-probabilities stand for, learnt from held-out verdicts whose truth is known.

    probabilities = softmax(weights @ (log-probabilities - their mean) + bias)

A temperature is the case of weights = identity / temperature and no bias. A judge's file keeps one calibration for each
task (`sre.label_calibration`). Only fitting needs scikit-learn.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipe.data.records import Judgement
from recipe.errors import SreError, install

KEY, OLD_KEY = "sre.label_calibration", "sre.readout"
MIN_ROWS = 20  # fewer held-out rows fit nothing
MIN_PER_LABEL = 5  # a label that fewer rows carry leaves only the temperature to fit
STRENGTH = 0.03
"""Inverse of the regression's L2 penalty. On cross-validated verdicts of small judges .01 to .1 did equally well."""
_FLOOR = 30.0  # nats below the most probable label; less is as good as impossible
_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """weights[i][k]: what the log-probability of labels[k] adds to labels[i]. rows: of the fit."""

    labels: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    rows: int = 0

    def __post_init__(self) -> None:
        size = len(self.labels)
        shaped = len(self.bias) == size > 1 and [len(row) for row in self.weights] == [size] * size
        if not shaped or not all(map(math.isfinite, (*self.bias, *(value for row in self.weights for value in row)))):
            raise ValueError(f"a calibration of {size} labels takes {size} x {size} finite weights and {size} biases")

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


def read_calibrations(metadata: Mapping[str, object]) -> dict[str, Calibration]:
    """Task -> calibration in a GGUF file's metadata; {} where it has none. Raises SreError for one of another shape."""
    try:
        found = json.loads(str(metadata.get(KEY) or metadata.get(OLD_KEY, "{}")))
        return {
            task: Calibration(
                tuple(map(int, one["labels"])),
                tuple(tuple(map(float, row)) for row in one["weights"]),
                tuple(map(float, one["bias"])),
                int(one["rows"]),
            )
            for task, one in found.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SreError(f"the file's calibration can't be used ({error}); judge without it", field=KEY) from None


def write_calibrations(calibrations: Mapping[str, Calibration]) -> dict[str, str]:
    """The metadata that `read_calibrations` reads; {} for none."""
    return (
        {KEY: json.dumps({task: asdict(calibration) for task, calibration in calibrations.items()})}
        if calibrations
        else {}
    )


def fit_calibration(
    judgements: Sequence[Judgement], prompts: Sequence[str]
) -> tuple[Calibration | None, dict[str, Any]]:
    """The calibration that makes the truth most probable, and what it gains on rows that it wasn't fitted on.

    A temperature and a multinomial logistic regression are compared by cross-validation over prompts. The one with
    the lower log-loss is fitted on all rows.

    judgements: greedy ones of one task, of rows that the judge was not trained on. Those without a truth or label
    log-probabilities are left out. prompts: the rows' prompt ids; rows of one prompt are held out together. Returns the
    calibration, None for too few rows, and {"rows", "kind", "log_loss": {"before", "temperature", "regression"}}.
    """
    try:
        from sklearn.model_selection import GroupKFold
    except ImportError:
        raise SreError(f"fitting a calibration needs scikit-learn: {install('eval')}") from None
    import numpy as np

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
    kinds = {"temperature": _fit_temperature}
    every_label = all(len(set(y[fitted])) == len(labels) for fitted, _ in folds)
    if every_label and np.bincount(y).min() >= MIN_PER_LABEL:
        kinds["regression"] = _fit_regression
    losses = {"before": float(_surprise(x, y).mean())}
    for name, fit in kinds.items():
        lost = np.empty(len(y))
        for fitted, held in folds:
            weights, bias = fit(x[fitted], y[fitted])
            lost[held] = _surprise(x[held] @ weights.T + bias, y[held])
        losses[name] = float(lost.mean())
    fits = {name: fit(x, y) for name, fit in kinds.items()}
    # A pair's calibration may take off a preference for a position; it must not exchange the responses.
    if len(labels) == 2 and "regression" in fits and fits["regression"][0][1] @ (-1, 1) <= 0:
        del fits["regression"]
    kind = min(fits, key=lambda name: losses[name])
    weights, bias = (values.round(6).tolist() for values in fits[kind])
    calibration = Calibration(labels, tuple(map(tuple, weights)), tuple(bias), len(pairs))
    return calibration, {"rows": len(pairs), "kind": kind, "log_loss": losses}


def _fit_temperature(x: Any, y: Any) -> tuple[Any, Any]:
    """The weights and biases of the temperature, from 1/4 to 64, under which the truth is most probable."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    power = minimize_scalar(lambda power: _surprise(x / 2**power, y).mean(), bounds=(-2, 6)).x
    return np.eye(x.shape[1]) / 2**power, np.zeros(x.shape[1])


def _fit_regression(x: Any, y: Any) -> tuple[Any, Any]:
    """The weights and biases of a multinomial logistic regression."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(x, y)
    if x.shape[1] > 2:
        return model.coef_, model.intercept_
    # Of two labels scikit-learn keeps the second's scores alone.
    return np.vstack([0 * model.coef_, model.coef_]), np.array([0.0, model.intercept_[0]])


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
