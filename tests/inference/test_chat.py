"""One rendering of a prompt for training and judging: system messages that are refused, and dates."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jinja2
import pytest

from recipe.data.records import Message
from recipe.errors import SreError
from recipe.inference.chat import render_chat
from recipe.inference.llamacpp.generator import _compile
from recipe.training.trainer import check_chat_template, prompt_ids

MESSAGES = (Message("system", "You judge."), Message("user", "A response."))
TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS
LEAVES_OUT = TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
# As Llama 3.2's templates ask for the date, and as others do.
DATED = (
    "{% if not date_string is defined %}"
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}Today: {{ date_string }}" + TURNS
)
CLOCK = "{{ strftime_now('%Y-%m-%d') }}" + TURNS
EXPECTED = {
    TURNS: "<system>You judge.<user>A response.<assistant>",
    REFUSES: "<user>You judge.\n\nA response.<assistant>",
    LEAVES_OUT: "<user>You judge.\n\nA response.<assistant>",
    DATED: "Today: 26 Jul 2024<system>You judge.<user>A response.<assistant>",
    CLOCK: "2024-07-26<system>You judge.<user>A response.<assistant>",
}


@pytest.fixture
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize("source", EXPECTED, ids=["plain", "refuses", "leaves-out", "dated", "clock"])
def test_training_and_judging_render_alike(source, tokenizer):
    compiled = _compile(source, Path("judge.gguf"))
    judged = render_chat(MESSAGES, lambda turns, **more: compiled.render(messages=turns, **more))
    tokenizer.chat_template = source
    trained = render_chat(MESSAGES, partial(tokenizer.apply_chat_template, tokenize=False))
    assert judged == trained == EXPECTED[source]
    assert prompt_ids(tokenizer, MESSAGES) == tokenizer(EXPECTED[source], add_special_tokens=False)["input_ids"]


def test_a_conversation_without_a_system_message_is_refused_as_it_is(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(jinja2.TemplateError, match="never"):
        render_chat(MESSAGES[1:], partial(tokenizer.apply_chat_template, tokenize=False))


def test_a_template_that_refuses_a_judge_is_found_out_before_training(tokenizer, tmp_path):
    tokenizer.chat_template = REFUSES
    tokenizer.save_pretrained(tmp_path)
    check_chat_template(tmp_path)
    tokenizer.chat_template = "{{ raise_exception('tools only') }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SreError, match="tools only"):
        check_chat_template(tmp_path)
