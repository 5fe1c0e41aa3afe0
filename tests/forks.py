"""Processes that may be killed or crash: forked from a server that has imported everything, so each starts fast."""

import multiprocessing
from functools import cache
from multiprocessing import forkserver

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


@cache
def server():
    """The context of a server with these imports; one that a test of benchmarks left has others."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "test_retrieval_kills", "test_retrieval_damage"])
    return context


def process(target, *arguments):
    """A process of its own that runs a function of a test module."""
    return server().Process(target=target, args=arguments)
