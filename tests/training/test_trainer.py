"""What SFT and DPO share: shares of an optimiser step, rows on disk, checkpoints, chat templates, reporters."""

import pytest

from recipe.config import TrainConfig
from recipe.errors import SreError
from recipe.training.trainer import last_checkpoint, per_process


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


@pytest.fixture
def checkpoints(tmp_path):
    """Two whole checkpoints as transformers leaves them, 5 and 10."""
    import torch
    from safetensors.torch import save_file

    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"weight": torch.zeros(64, 64)}, folder / "adapter_model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.zeros(64)}, folder / name)
        (folder / "trainer_state.json").write_text('{"global_step": 5}', encoding="utf-8")
    return tmp_path


def test_the_newest_whole_checkpoint_is_taken(checkpoints):
    assert last_checkpoint(checkpoints).name == "checkpoint-10"
    assert last_checkpoint(checkpoints / "none") is None


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("kept", [0, 0.5, 0.98])
def test_a_checkpoint_that_a_full_disk_cut_short_is_passed_over(checkpoints, name, kept):
    file = checkpoints / "checkpoint-10" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert last_checkpoint(checkpoints).name == "checkpoint-5"


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_lacks_a_file_is_passed_over(checkpoints, name):
    (checkpoints / "checkpoint-10" / name).unlink()
    assert last_checkpoint(checkpoints).name == "checkpoint-5"
