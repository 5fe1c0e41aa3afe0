"""Shared ground of all tests: offline, one thread, a home of their own, real imagery where RSVLM_DATA points."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # two threads on a busy two-core machine are slower than one


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real imagery; the tests that need it are skipped, with a reason, where it is missing."""
    folder = Path(os.environ.get("RSVLM_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip("RSVLM_DATA names no folder with the project's imagery")
    return folder
