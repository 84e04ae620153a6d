"""Example -> Request, Completion -> Judgement: the two conversions that judging and sampling share. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.data.records import Example, Judgement, Message
from recipe.inference.base import Completion, Request
from recipe.verdict import parse_verdict


def to_request(
    example: Example,
    messages: Sequence[Message],
    *,
    force_label: bool = False,
    label_only: bool = False,
) -> Request:
    """The request for one judgement: its id is the example's, its labels are those the example allows."""
    return Request(example.id, tuple(messages), example.labels, force_label, label_only)


def to_judgement(example: Example, completion: Completion, origin: str, *, need_rationale: bool = True) -> Judgement:
    """What `completion` says about `example`. `origin` names its maker, e.g. "iter-1".

    The id is <example id>:<origin>:<sample>. The label is None where the text is malformed (with
    `need_rationale`, so is a verdict without one) and where the engine failed: then finish is "error" and the
    text is empty; the reason stays with the completion.
    """
    failed = completion.finish == "error"
    verdict = None
    if not failed:
        verdict = parse_verdict(completion.text, example.labels, need_rationale=need_rationale)
    return Judgement(
        id=f"{example.id}:{origin}:{completion.sample}",
        example_id=example.id,
        task=example.task,
        text="" if failed else completion.text,
        rationale=verdict.rationale if verdict else "",
        label=verdict.label if verdict else None,
        truth=example.label,
        finish=completion.finish,
        tokens=len(completion.token_ids),
        label_logprobs=dict(completion.label_logprobs),
        logprob=sum(completion.token_logprobs) if completion.token_logprobs else None,
        token_ids=completion.token_ids,
        origin=origin,
    )
