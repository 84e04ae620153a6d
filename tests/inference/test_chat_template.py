"""One renderer for training and judging: what transformers renders, also where a template has no place for a system."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recipe.data.examples import read_examples
from recipe.data.records import Message
from recipe.errors import SreError
from recipe.gguf.export import write_gguf
from recipe.inference.base import Request
from recipe.inference.chat_template import ChatTemplate
from recipe.inference.llamacpp.generator import LlamaCppGenerator
from recipe.inference.pytorch.generator import TorchGenerator
from recipe.prompts import Prompts
from recipe.training.trainer import prompt_ids

CHATML = (
    "{%- for m in messages %}\n{{- '<|im_start|>' + m.role + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}"
    "\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# As Llama 3.2's templates ask for the date, and as others do.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}Today: {{ date_string }}" + CHATML
)
CLOCK = "{{ strftime_now('%d %b %Y') }}" + CHATML
TOOLS = "{% if tools is not none %}{{ tools }}{% endif %}{% if documents %}x{% endif %}" + CHATML
MARKED = "{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{{ eos_token }}{% endfor %}"
JSON = "{% for m in messages %}{{ {'role': m.role, 'text': '<é>' ~ m.content} | tojson }}{% endfor %}"
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turn') }}"
    "{% endif %}"
    "[{{ m.role }}] {{ m.content }} [/]{% endfor %}"
)
DROPS = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }} [/]{% endfor %}"
MESSAGES = [Message("system", "Judge."), Message("user", " Is <it> good? ")]
TURNS = [{"role": m.role, "content": m.content} for m in MESSAGES]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<|im_start|>", eos="<|im_end|>", file="f")


@pytest.mark.parametrize("source", [CHATML, TOOLS, MARKED, JSON], ids=["chatml", "tools", "marked", "json"])
def test_it_renders_as_transformers_does(source: str, train_tokenizer: Any) -> None:
    tokenizer = train_tokenizer("smollm", 300)
    tokenizer.chat_template = source
    wanted = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate.of(tokenizer).render(MESSAGES) == wanted == template(source).render(MESSAGES)


@pytest.mark.parametrize("source", [DATED, CLOCK], ids=["dated", "clock"])
def test_its_date_is_always_the_same(source: str, train_tokenizer: Any) -> None:
    tokenizer = train_tokenizer("smollm", 300)
    tokenizer.chat_template = source
    text = template(source).render(MESSAGES)
    assert "26 Jul 2024" in text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, MESSAGES) == ids, "trained as it is judged"


@pytest.mark.parametrize("source", [REFUSES, DROPS], ids=["refuses", "drops"])
def test_a_system_turn_without_a_place_goes_into_the_first_user_turn(source: str) -> None:
    assert template(source).render(MESSAGES) == "[user] Judge.\n\n Is <it> good?  [/]"
    assert template(source).render([Message("user", "a"), Message("assistant", "b")]) == "[user] a [/][assistant] b [/]"


# As Gemma 2's, which refuses a system turn, and as Gemma 3's, which puts it into the first user turn itself.
TURN = "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ TEXT | trim }}<|im_end|>\n{% endfor %}"
ENDS = "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
GEMMA2 = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
GEMMA2 += "{% for m in messages %}" + TURN.replace("TEXT", "m.content") + ENDS
GEMMA3 = "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
GEMMA3 += "{% for m in messages if m.role != 'system' %}"
GEMMA3 += TURN.replace("TEXT", "(system if loop.first else '') ~ m.content") + ENDS


@pytest.mark.parametrize("source", [GEMMA2, GEMMA3], ids=["gemma2", "gemma3"])
def test_gemma_is_trained_sampled_and_judged_on_one_prompt(
    source: str, models: Any, load: Any, tmp_path: Path, tiny_data: Path
) -> None:
    folder = tmp_path / "gemma3"
    shutil.copytree(models("gemma3"), folder)
    (folder / "chat_template.jinja").write_text(source)
    write_gguf(folder, tmp_path / "judge.gguf")
    tokenizer = load(folder)[1]
    torch_generator = TorchGenerator(folder, adapter=None, name="x", context=512, engine="transformers")
    with LlamaCppGenerator(tmp_path / "judge.gguf", threads=1, context=512, parallel=1) as llama_generator:
        for row in read_examples(tiny_data, split="train", task="pointwise")[:4]:
            messages = Prompts().judge(row)
            assert [message.role for message in messages] == ["system", "user"]
            trained = prompt_ids(tokenizer, messages)
            assert torch_generator._encode(Request("x", messages))[0] == trained, "sampled"
            assert llama_generator._encoder.encode(messages) == trained, "judged"
            text = "\n\n".join(message.content for message in messages).strip()
            assert tokenizer.decode(trained) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>model\n"
    torch_generator.close()


def test_a_template_with_a_place_for_it_keeps_it() -> None:
    assert template(CHATML).render(MESSAGES).startswith("<|im_start|>system\nJudge.<|im_end|>")


@pytest.mark.parametrize(
    "source", ["", None, "{% for %}", "{{ raise_exception('never') }}", "hello", "{{ messages[0].role }}"]
)
def test_a_template_that_can_not_judge_is_refused_when_it_is_read(source: str | None) -> None:
    with pytest.raises(SreError, match=r"^f, field 'tokenizer\.chat_template'"):
        template(source)  # type: ignore[arg-type]


def test_what_one_message_makes_it_raise_is_an_error() -> None:
    raising = template("{% for m in messages %}{{ m.content }}{{ 1 / (m.content | length - 3) }}{% endfor %}")
    with pytest.raises(SreError, match="division by zero"):
        raising.render([Message("user", "abc")])
    assert raising.render([Message("user", "abcd")]) == "abcd1.0"


def test_it_is_found_out_when_the_tokenizer_is_read(train_tokenizer: Any) -> None:
    tokenizer = train_tokenizer("smollm", 300)
    for source in (REFUSES, "{{ raise_exception('tools only') }}"):
        tokenizer.chat_template = source
        if source == REFUSES:
            ChatTemplate.of(tokenizer)
        else:
            with pytest.raises(SreError, match="tools only"):
                ChatTemplate.of(tokenizer)
