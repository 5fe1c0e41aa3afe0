"""What each process of a launch runs in tests: an add with a tiny encoder, which may die or be another one in some."""

import os
import signal
import sys

from fakes import TinyEncoder

from retrieval import Archive
from retrieval.processes import add_with_accelerate
from rsvlm.errors import RsvlmError


class MortalEncoder(TinyEncoder):
    """The tiny encoder, which kills its process at the first batch of its second unit, of three batches each."""

    def embed(self, pixels, valid, bands):
        if len(self.batches) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(pixels, valid, bands)


def encoder(trouble):
    """The encoder of this process; the trouble is that of the last one alone."""
    if os.environ["RANK"] == "0" or trouble == "none":
        return TinyEncoder()
    return MortalEncoder() if trouble == "death" else TinyEncoder(seed=1)


def main(folder, scenes, trouble):
    try:
        report = add_with_accelerate(
            lambda: Archive.open(folder, TinyEncoder()),
            scenes,
            load=lambda: encoder(trouble),
            sensor="sentinel-2-l2a",
            progress=False,
            batch=4,
        )
    except RsvlmError as error:
        sys.exit(f"said: {error}")
    print(f"process {os.environ['RANK']}: {report}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
