"""What SFT and DPO share: shares of an optimiser step, rows on disk, checkpoints, chat templates, reporters."""

import json
from pathlib import Path

import pytest

from recipe.config import TrainConfig
from recipe.errors import SreError
from recipe.storage import write_json
from recipe.training.trainer import WHOLE, last_checkpoint, per_process, save_adapter


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "shared"),
    [
        (2, 8, 1, (2, 8)),
        (2, 8, 4, (2, 2)),
        (4, 1, 2, (2, 1)),
        (4, 2, 8, (1, 1)),
        (3, 4, 6, (1, 2)),
    ],
)
def test_accumulation_is_shared_out_first_then_the_batch(batch_size, accumulate, processes, shared):
    settings = TrainConfig(batch_size=batch_size, accumulate=accumulate)
    assert per_process(settings, processes) == shared
    assert shared[0] * shared[1] * processes == batch_size * accumulate


@pytest.mark.parametrize(("batch_size", "accumulate", "processes"), [(3, 1, 2), (1, 8, 16), (2, 3, 4)])
def test_a_step_that_can_not_be_shared_is_an_error_that_says_what_to_do(batch_size, accumulate, processes):
    with pytest.raises(SreError, match=f"make accumulate a multiple of {processes}"):
        per_process(TrainConfig(batch_size=batch_size, accumulate=accumulate), processes)


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    state = "trainer_state.json"
    for step in (5, 10, 15, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / state).write_text("{}")
    assert last_checkpoint(tmp_path) is None
    for step in (5, 10, 15):  # a kill came before the last one was whole
        write_json(tmp_path / f"checkpoint-{step}" / WHOLE, {state: 2})
    assert last_checkpoint(tmp_path).name == "checkpoint-15"
    (tmp_path / "checkpoint-15" / state).write_text("")  # what a full disk leaves
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    (tmp_path / "checkpoint-10" / WHOLE).write_text("")
    assert last_checkpoint(tmp_path).name == "checkpoint-5"
    (tmp_path / "checkpoint-5" / state).unlink()
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "none") is None


def test_an_adapter_names_its_base_by_the_way_there_and_a_hub_name_as_it_is(tmp_path, monkeypatch):
    base = tmp_path / "run" / "seed" / "model"
    base.mkdir(parents=True)

    class Model:
        def __init__(self, name):
            self.name = name

        def save_pretrained(self, folder, **_):
            (folder / "README.md").write_text(f"base_model: {self.name}")
            (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": self.name}))

    monkeypatch.chdir(tmp_path)
    adapter = Path("run/iter-1/adapter")  # as typed: a relative folder
    for name, expected in ((str(base), "../../seed/model"), ("run/seed/model", "../../seed/model"), ("a/b", "a/b")):
        save_adapter(Model(name), adapter)
        assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == expected
        assert [path.name for path in adapter.iterdir()] == ["adapter_config.json"]
