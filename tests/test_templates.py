"""Templates from a stranger's file: no code runs, and no rendering takes for ever or fills the memory."""

import time

import pytest

from recipe import templates
from recipe.errors import SreError
from recipe.templates import LIMIT, LimitedEnvironment


def render(source: str, **context: object) -> str:
    environment = LimitedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    return environment.compile_limited(source, "t")(context)


NESTED = "{% for a in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3
BOMBS = {
    "nested loops": NESTED,
    "loops that print nothing": NESTED.replace("x", ""),
    "long text in a loop": "{% for a in range(99999) %}" + "x" * 99999 + "{% endfor %}",
    "long text in a macro": "{% macro f() %}" + "x" * 99999 + "{% endmacro %}{% for a in range(99999) %}"
    "{% set x = f() %}{% endfor %}",
    "loops with a loop variable": NESTED.replace("x", "{{ loop.last }}"),
    "loops with a test": "{% for a in range(99999) if a is odd %}" * 3 + "{% endfor %}" * 3,
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "deep macros": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "blocks": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "recursive loops": "{% for a in [[[]]] recursive %}{{ loop(a) }}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "lists of lists": "{% set ns = namespace(x=[1]) %}{% for a in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x }}",
    "translate": "{% set t = {120: 'y' * 100000} %}{{ ('x' * 100000).translate(t) | length }}",
    "bytes of a number": "{{ (1).to_bytes(10**10, 'big') | length }}",
    "bytes": "{{ 'x'.encode().ljust(10**10) | length }}",
    "bytes by a filter": "{% set b = ('x' * 100000) | attr('encode') %}{{ b().replace(b()[:1], b()) | length }}",
    "bytes by a loop": "{% for e in ['x'] | map(attribute='encode') %}{{ e().ljust(10**10) | length }}{% endfor %}",
    "repetition": "{{ 'x' * 10**10 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set ns = namespace(x=10) %}{% for a in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "center": "{{ 'x' | center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10000000000) }}",
    "replace": "{% set x = 'x' * 100000 %}{{ (x | replace('x', x)) | length }}",
    "str.replace": "{% set x = 'x' * 100000 %}{{ x.replace('x', x) | length }}",
    "join": "{% set x = 'x' * 100000 %}{{ range(99999) | map(attribute='y', default=x) | join | length }}",
    "%": "{{ '%9999999999d' % 1 }}",
    "% *": "{{ '%*d' % (9999999999, 1) }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    "format with a width": "{{ '{:{}}'.format(1, 9999999999) }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "indent": "{{ 'x\\nx' | indent(9999999999) }}",
    "tojson": "{{ [1] | tojson(indent=9999999999) }}",
    "round": "{{ 1.5 | round(9999999999, 'floor') }}",
    "lipsum": "{{ lipsum(9999999) }}",
    "a list from loops": "{{ range(99999) | list | batch(1, 'x' * 9999) | list | length }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_template_takes_for_ever(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "nested loops":  # the whole limit takes a second
        monkeypatch.setattr(templates, "LIMIT", LIMIT // 5)
    begin = time.monotonic()
    with pytest.raises(SreError, match=r"^t: this template"):
        render(BOMBS[name])
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ 'x' * 'y' }}",
        "{{ [] | first | round }}",
        "{{ ('%s' * 9) % 1 }}",
        "{{ 'a' + 1 }}",
        "{% for %}",
        "{{ x.y.z }}",
    ],
)
def test_whatever_a_template_raises_is_one_error(source: str) -> None:
    with pytest.raises(SreError, match=r"^t: this template"):
        render(source)


def test_what_chat_templates_do_works() -> None:
    source = (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- if loop.first and m.role == 'system' -%}"
        "{{ 'S:' + m.content | trim }}{%- continue -%}{%- endif -%}{%- set ns.n = ns.n + 1 -%}"
        "{{ '\\n' ~ m.role.upper() ~ '|' ~ m['content'].split('</think>')[-1] }}{{ loop.index0 }}{{ loop.last }}"
        "{%- endfor -%}{{ ns.n }}{{ messages | map(attribute='role') | join(',') }}{{ {'a': 'ü'} | tojson }}"
        "{{ '%s!' % 'x' }}{{ messages[::-1] | length }}{{ loop is defined }}"
    )
    messages = [{"role": "system", "content": " s "}, {"role": "user", "content": "a</think>b"}]
    assert render(source, messages=messages) == 'S:s\nUSER|b1True1system,user{"a": "\\u00fc"}x!2False'


def test_a_prompt_as_long_as_any_context_is_far_from_the_limit() -> None:
    source = "{% for m in messages %}{{ m.role }}{{ m.content | trim | replace('a', 'b') }}{% endfor %}"
    text = "a" * (LIMIT // 20)
    assert len(render(source, messages=[{"role": "user", "content": text}])) > len(text)


def test_the_budget_is_one_rendering_s_own() -> None:
    environment = LimitedEnvironment()
    render = environment.compile_limited("{% for a in range(99999) %}{{ a }}{% endfor %}", "t")
    lengths = {len(render({})) for _ in range(4)}
    assert lengths == {488885}
