"""One measurement: what a fresh process is told and tells, and when its figure can't be compared."""

from __future__ import annotations

import pytest

from benchmarks.measure import Job, check_length, draw, measure
from recipe.errors import SreError
from recipe.inference.base import Completion


class Recorder:
    """A generator that draws exactly as many tokens as it is asked for, and keeps what it was asked."""

    def __init__(self, error=""):
        self.calls, self._error = [], error

    def generate(self, requests, sampling):
        self.calls.append((requests, sampling))
        for request in requests:
            for sample in range(sampling.n):
                tokens = () if self._error else tuple(range(sampling.max_tokens))
                finish = "error" if self._error else "length"
                yield Completion(request.id, sample, "", tokens, finish, 3, error=self._error)


def test_every_length_is_one_call(workload):
    work = workload([[1], [2], [3]], [6, 4, 6], samples=2, temperature=1.0)
    generator = Recorder()
    assert draw(generator, work) == work.new_tokens == 32
    assert [[request.id for request in requests] for requests, _ in generator.calls] == [["i1"], ["i0", "i2"]]
    settings = [(s.max_tokens, s.n, s.temperature, s.stop_at_label) for _, s in generator.calls]
    assert settings == [(4, 2, 1.0, False), (6, 2, 1.0, False)]


def test_a_label_alone_counts_as_one_token(workload):
    generator = Recorder()
    assert draw(generator, workload([[1], [2]], [1, 1], label_only=True)) == 2
    assert all(request.label_only for requests, _ in generator.calls for request in requests)


def test_what_the_engine_refuses_ends_the_measurement(workload):
    with pytest.raises(SreError, match="i0: too long"):
        draw(Recorder("too long"), workload([[1]]))


def test_another_number_of_tokens_is_no_comparison(workload):
    work = workload([[1], [2]], [4, 4])
    check_length("loop", work, {"new_tokens": 8})
    check_length("ceiling", work, {})
    with pytest.raises(SreError, match="loop wrote 7 tokens where workload x has 8"):
        check_length("loop", work, {"new_tokens": 7})


def test_an_error_of_the_process_is_the_users_error(workload, tmp_path):
    job = Job("ours", tmp_path / "gone.gguf", workload([[1]]), 1, 1)
    with pytest.raises(SreError, match=r"measuring ours: .*gone\.gguf"):
        measure(job)


def test_a_process_that_breaks_down_is_named_with_its_last_words(workload, tmp_path):
    with pytest.raises(SreError, match="measuring nonsense ended with code 1: KeyError: 'nonsense'"):
        measure(Job("nonsense", tmp_path / "gone.gguf", workload([[1]]), 1, 1))
