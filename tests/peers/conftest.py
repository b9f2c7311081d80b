"""Where PyTorch is not installed there is nothing of its kind to collect."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_torch.py"]
