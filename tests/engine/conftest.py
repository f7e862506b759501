"""One thread, since the tests are small and several of them run at once; the same numbers in any order."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    torch.manual_seed(20)
