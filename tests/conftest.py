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


@pytest.fixture(scope="session")
def untrained_encoder():
    """The real encoder with weights as they are before training: right in every shape, wrong in every answer."""
    import torch

    from rsvlm.encoder.clip import EncoderConfig, SpectralCLIP
    from rsvlm.encoder.model import SpectralEncoder
    from rsvlm.encoder.preprocessing import BandStatistics, Preprocessing

    torch.manual_seed(0)
    statistics = [BandStatistics("display", 0.45, 0.25, wavelength_nm=550.0)]
    statistics += [BandStatistics("reflectance", 0.2, 0.1, wavelength_nm=w) for w in (490.0, 660.0, 860.0, 1610.0)]
    statistics += [BandStatistics("dB", -12.0, 5.0, polarisation=p) for p in ("VV", "VH")]
    statistics.append(BandStatistics("display", 0.4, 0.2, polarisation="VV"))
    return SpectralEncoder(SpectralCLIP(EncoderConfig("untrained"), 128), Preprocessing(128, tuple(statistics)))


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    """The project's own sample scenes, written once."""
    from data_engine.samples import write_samples

    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder
