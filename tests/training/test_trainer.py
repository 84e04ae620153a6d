"""What SFT and DPO share: an optimiser step is over as many rows in several processes as in one."""

import pytest

from recipe.config import TrainConfig
from recipe.errors import SreError
from recipe.training.trainer import per_process


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
