"""Turns an engine's completion into a judgement."""

from recipe.data.records import Example, Judgement
from recipe.inference.base import Completion
from recipe.verdict import parse_verdict


def to_judgement(example: Example, completion: Completion, origin: str, *, need_rationale: bool = True) -> Judgement:
    """What `completion` says about `example`.

    Args:
        example: What was judged.
        completion: The engine's answer.
        origin: Who judged, e.g. "iter-1". The judgement's id is <example id>:<origin>:<sample>.
        need_rationale: Whether a verdict without a rationale is malformed.

    Returns:
        The judgement. Its label is None where the text is malformed, or the engine failed (finish "error").
    """
    failed = completion.finish == "error"
    verdict = None if failed else parse_verdict(completion.text, example.labels, need_rationale=need_rationale)
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
        origin=origin,
    )
