"""For every test: one torch thread a process, because tests run beside each other and the models are tiny."""

import torch

torch.set_num_threads(1)
