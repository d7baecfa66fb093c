"""For every test: one torch thread a process, because tests run beside each other and the models are tiny; and the
server's log goes to stderr, as `cogvideox serve` has it, so that a command's output holds no line of another thread."""

import sys

import structlog
import torch

torch.set_num_threads(1)
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
