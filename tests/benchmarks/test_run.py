"""`python -m benchmarks`: a whole run on the tiny model, and what is refused before anything is measured."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from click.testing import CliRunner

from benchmarks import run
from benchmarks.__main__ import bench as command
from benchmarks.run import PEERS, choose_peers, run_bench
from recipe.errors import SreError


def test_a_run_measures_every_peer_in_a_process_of_its_own(tiny_gguf, tmp_path):
    out = tmp_path / "bench.json"
    options = ("--workload", "a,d", "--rows", 1, "--repeats", 1, "--threads", 1, "--parallel", 4, "--json", out)
    peers = ("--peers", "ours,loop")
    result = CliRunner().invoke(command, [str(part) for part in ("--model", tiny_gguf, *options, *peers)])
    assert result.exit_code == 0, result.output
    for part in ("10 samples of 1 prompts", "1 rows, label only", "cold-full", "loop"):
        assert part in result.output
    found = json.loads(out.read_text())
    assert {name: list(peers) for name, peers in found.items()} == {
        "a": ["ours", "loop"],
        "d": ["ours", "loop"],
        "cold-label": ["ours"],
        "cold-full": ["ours"],
    }
    for name, figures in ((name, figures) for name, peers in found.items() for figures in peers.values()):
        assert figures["median_s"] > 0, name
        assert figures["ratio"] > 0, name
    for name in "ad":
        ours, loop = found[name]["ours"], found[name]["loop"]
        assert loop["ratio"] == pytest.approx(loop["median_s"] / ours["median_s"], rel=0.05)
        assert ours["share_of_bound"] == pytest.approx(ours["bound_s"] / ours["median_s"], rel=0.05)
        assert 0 < ours["peak_mib"] < 4096
    new = 10 * 64
    assert found["a"]["ours"]["tokens_per_s"] == pytest.approx(new / found["a"]["ours"]["median_s"], rel=0.05)


def test_transformers_reads_the_same_file(tiny_gguf):
    bench = run_bench(tiny_gguf, workloads=["d"], peers=["transformers"], rows=2, repeats=1, threads=1, parallel=2)
    (figures,) = bench.results["d"].values()
    assert figures["ratio"] is None  # ours did not run
    assert figures["dtype"] in ("bfloat16", "float32")


@pytest.fixture
def scripted(monkeypatch):
    """Measurements that take no time: every process needs as many seconds as its number in the run."""
    seen = []

    def measure(job):
        seen.append(job)
        number = float(len(seen))
        rates = {"prefill": 100.0, "decode": 50.0}
        return {
            "seconds": number,
            "new_tokens": job.workload.new_tokens,
            "peak_mib": 9,
            "kv_mib": 1.0,
            "kernels": "x",
        } | rates

    monkeypatch.setattr(run, "measure", measure)
    return seen


def test_peers_take_turns_in_every_repeat(tiny_gguf, scripted):
    bench = run_bench(tiny_gguf, workloads=["d"], peers=["loop", "ours"], rows=1, repeats=2, threads=1)
    turn = ["ours", "loop", "ceiling", "cold", "cold"]
    assert [job.kind for job in scripted] == turn * 2
    assert bench.results["d"]["ours"]["seconds"] == [1.0, 6.0]
    assert bench.results["d"]["loop"]["ratio"] == pytest.approx(4.5 / 3.5, abs=1e-3)
    assert {job.threads for job in scripted} == {1}


def test_what_was_measured_is_kept_when_a_later_repeat_fails(tiny_gguf, scripted, monkeypatch, tmp_path):
    first = run.measure

    def measure(job):
        if len(scripted) == 4:
            raise SreError("broken")
        return first(job)

    monkeypatch.setattr(run, "measure", measure)
    out = tmp_path / "bench.json"
    with pytest.raises(SreError, match="broken"):
        run_bench(tiny_gguf, workloads=["d"], peers=["loop"], rows=1, repeats=9, json_file=out)
    assert json.loads(out.read_text())["d"]["loop"]["seconds"] == [1.0, 2.0, 3.0, 4.0]


def test_a_model_that_transformers_can_not_read_can_be_measured_without(tiny_gguf, monkeypatch):
    def measure(job):
        raise SreError(f"{job.kind}: unknown architecture")

    monkeypatch.setattr(run, "measure", measure)
    with pytest.raises(SreError, match="convert: unknown architecture; or leave transformers out: --peers ours,loop"):
        run_bench(tiny_gguf, workloads=["d"], peers=["transformers"], rows=1)


def test_a_termination_ends_the_run_like_an_exception(tiny_gguf, scripted, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "measure", lambda job: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        run_bench(tiny_gguf, workloads=["d"], peers=["loop"], rows=1, repeats=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_by_default_every_peer_that_can_be_run_is(tmp_path, monkeypatch):
    program = tmp_path / "llama-server"
    program.touch()
    assert choose_peers(None, program) == PEERS
    assert choose_peers(None, None) == PEERS[:3]
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    assert choose_peers(None, None) == PEERS[:2]
    with pytest.raises(SreError, match=r"transformers needs torch, .*\[train\]"):
        choose_peers(["transformers"], None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--peers", "ours,vllm"), "no peer 'vllm'; expected some of ours, loop"),
        (("--peers", "llama-server"), "needs --llama-server PATH"),
        (("--llama-server", "gone"), "gone: no such program"),
        (("--workload", "a,z"), "no workload 'z'"),
    ],
)
def test_a_bad_choice_is_refused_before_anything_runs(options, said, tiny_gguf, scripted):
    with pytest.raises(SreError, match=re.escape(said)):
        command.main(["--model", str(tiny_gguf), *options], standalone_mode=False)
    assert scripted == []


def test_a_file_that_is_no_model_is_refused(tmp_path, scripted):
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(SreError, match=r"text\.gguf"):
        run_bench(tmp_path / "text.gguf")
    assert scripted == []


def test_a_prompt_beyond_the_models_context_is_refused(tiny_gguf, scripted, monkeypatch):
    monkeypatch.setattr("benchmarks.workloads.JUDGED_TOKENS", 5000)
    with pytest.raises(SreError, match=r"workload b needs \d+ tokens, more than the context of 2048"):
        run_bench(tiny_gguf, workloads=["b"], rows=1)
    assert scripted == []
