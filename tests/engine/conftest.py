"""One thread: the tests are small, and several of them run at once."""

import torch

torch.set_num_threads(1)
