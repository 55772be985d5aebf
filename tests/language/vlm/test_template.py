"""Chat templates of strangers: what transformers makes of them, and an error where they loop, grow or fail."""

from typing import Any

import pytest
from tests.language.vlm.tiny_speakers import PARTS_TEMPLATE, TAG_TEMPLATE, tokenizer

from tubelet.errors import ConfigError, InputError
from tubelet.language.vlm.template import render_template
from tubelet.reading.limits import Limits

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?\n<b>\u00e4\U0001f600"}]},
    {"role": "assistant", "content": "So.", "tool_calls": None},
    {"role": "user", "content": "And now?"},
]
FORMS = {
    "parts": PARTS_TEMPLATE,
    "tag": TAG_TEMPLATE,
    "names of tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ cls_token is defined }}",
    "tools": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}",
    "tojson": "{{ messages | tojson }}{{ messages[1] | tojson(indent=2) }}",
    "trimmed blocks": "  {% if true %}\n  a\n  {% endif %}\n b\n",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}"
    "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set n = namespace(i=0) %}{% for m in messages %}{% set n.i = n.i + 1 %}{% endfor %}{{ n.i }}",
    "dict": "{{ dict(a=1) | tojson }}{{ dict.fromkeys('ab', 2) | tojson }}",
    "macro": "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].role) }}{{ f('a') | upper }}",
    "generation": "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
    "keys that are none": "{{ messages[2].tool_calls is defined }}",
    "undefined": "{{ nothing }}{{ messages[0].nothing }}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prompt", [False, True])
def test_it_writes_what_transformers_writes(form: str, prompt: bool):
    spoken = tokenizer(FORMS[form])
    want = spoken.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=prompt)
    assert render_template(spoken, MESSAGES, add_generation_prompt=prompt) == (want, [])


def test_marks_say_where_generations_are():
    text, spans = render_template(tokenizer(FORMS["generation"]), MESSAGES, add_generation_prompt=False, marks=True)
    assert [text[a:b] for a, b in spans][2:] == ["So.", "And now?"]
    assert render_template(tokenizer(TAG_TEMPLATE), MESSAGES, add_generation_prompt=False, marks=True)[1] == []


def test_a_template_called_default_is_taken():
    spoken = tokenizer(TAG_TEMPLATE)
    spoken.chat_template = {"default": "one", "tool_use": "two"}
    assert render_template(spoken, MESSAGES, add_generation_prompt=True)[0] == "one"
    for wrong in ({"tool_use": "two"}, 7, ["default"], {"default": 3}):
        spoken.chat_template = wrong
        with pytest.raises(ConfigError):
            render_template(spoken, MESSAGES, add_generation_prompt=True)


FAILS = {
    "not a template": "{% for %}",
    "it refuses": "{{ raise_exception('images only') }}",
    "text for lists": "{{ messages[1].content + 'text' }}",
    "other messages": "{{ messages[7].role }}",
    "division": "{{ 1 // 0 }}",
    "a key": "{{ messages[0].update({}) }}",
    "a filter": "{{ 3 | no_such_filter }}",
    "a test": "{{ 3 is no_such_test }}",
    "format": "{{ '%d' | format('x') }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "a file": "{% include '/etc/passwd' %}",
    "another template": "{% extends 'x' %}",
    "an import": "{% import 'os' as os %}",
    "into Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "into Python by a namespace": "{% set n = namespace(__class__=1) %}",
    "into Python by format": "{{ '{0.__class__.__mro__}'.format('') }}{{ ''.__class__.__name__.x }}",
    "too long": "{{ 'a' * 3000000 }}",
    "too long by pieces": "{% for i in range(9000) %}{{ 'a' * 1000 }}{% endfor %}",
    "memory": "{{ 'a' * 10**10 }}",
    "memory of a filter": "{{ 'a' | center(10**10) }}",
    "memory by doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a list without end": "{{ range(99999) | map('string') | batch(10**9, 'x') | list }}",
}


@pytest.mark.parametrize("name", FAILS)
def test_whatever_fails_is_one_error(name: str):
    with pytest.raises(ConfigError, match="chat template") as e:
        render_template(tokenizer(FAILS[name]), MESSAGES, add_generation_prompt=True)
    assert e.value.__cause__ is not None


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in [1] recursive %}{{ loop([1, 1, 1]) if loop.depth < 40 }}{% endfor %}",
        "{{ 3 ** (3 ** 20) }}",
    ],
    ids=["loops", "recursion", "a power"],
)
def test_what_does_not_end_is_ended(template: str, monkeypatch: pytest.MonkeyPatch):
    """And the next one is written by a new process."""
    monkeypatch.setattr("tubelet.language.vlm.template._LIMITS", Limits(deadline_s=0.2, max_memory_bytes=512 << 20))
    with pytest.raises(ConfigError, match="did not end within"):
        render_template(tokenizer(template), MESSAGES, add_generation_prompt=True)
    monkeypatch.undo()
    assert render_template(tokenizer("fine"), MESSAGES, add_generation_prompt=True)[0] == "fine"


def test_messages_are_plain_values():
    for wrong in ([{"role": object()}], [{"role": float("nan"), 1: {1, 2}}], [{"content": "x" * 5_000_000}]):
        with pytest.raises(InputError):
            render_template(tokenizer(TAG_TEMPLATE), wrong, add_generation_prompt=True)
