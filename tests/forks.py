"""Processes that may be killed or crash: forked from a server that has imported everything, so each starts fast."""

import multiprocessing

IMPORTED = [
    "fakes",
    "faiss",
    "lance",
    "rasterio",
    "torch",
    "retrieval",
    "retrieval.archive",
    "rsvlm.cli",
    "typer.testing",
]


def process(target, *arguments):
    """A process of its own that runs a function of a test module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "test_retrieval_kills", "test_retrieval_damage"])
    return context.Process(target=target, args=arguments)
