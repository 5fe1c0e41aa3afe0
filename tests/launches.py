"""Launches of two processes, and what each runs: an add with a tiny encoder, which may die or be another, or training.

Each process checks last that it leaves no process group to the interpreter's end: gloo's threads would abort it there,
now and then.
"""

import atexit
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from fakes import TinyEncoder
from torch.nn.utils import parameters_to_vector

from retrieval import Archive
from retrieval.processes import add_with_accelerate
from rsvlm.errors import RsvlmError
from rsvlm.training.config import TrainingConfig
from rsvlm.training.contrastive import train

LAUNCHES, SECONDS = Path(__file__), 120


def launch(*arguments):
    """Two processes on this machine, and what they wrote."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    paths = os.pathsep.join([str(LAUNCHES.parent), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    told = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, run)), env=told, timeout=SECONDS, capture_output=True, text=True, check=False)


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


def say(what):
    """Print it as one line of this process, in one piece: both have one pipe."""
    sys.stdout.write(f"process {os.environ['RANK']}: {what}\n")
    sys.stdout.flush()


def add(scenes, *steps):
    """Add the scenes in all processes, step by step of an archive and a trouble; print each one's report."""
    faults = []
    for folder, trouble in zip(steps[::2], steps[1::2], strict=True):
        try:
            report = add_with_accelerate(
                lambda folder=folder: Archive.open(folder, TinyEncoder()),
                scenes,
                load=lambda trouble=trouble: encoder(trouble),
                sensor="sentinel-2-l2a",
                progress=False,
                batch=4,
            )
            say(report)
        except RsvlmError as error:
            faults.append(f"said: {error}")
    sys.exit("\n".join(faults) or None)


def learn(config, out):
    """Train in all processes, and print the length of each one's weights; running statistics are the first one's."""
    trained = train(TrainingConfig.load(Path(config)), Path(out))
    say(weight(trained))


def weight(encoder):
    """The length of an encoder's weights as one vector, exact enough that other training gives another."""
    return parameters_to_vector(encoder.model.cpu().parameters()).double().norm().item()


def leave():
    """End with an error where a process group would be left."""
    if torch.distributed.is_initialized():
        print("a process group is left", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    atexit.register(leave)
    {"add": add, "learn": learn}[sys.argv[1]](*sys.argv[2:])
