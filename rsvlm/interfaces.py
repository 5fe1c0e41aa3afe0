"""The three parts an assistant is made of, as protocols: whatever has these methods can stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rsvlm.answer import Fact, Hit
    from rsvlm.language.plan import Plan
    from rsvlm.scene import Scene


class Encoder(Protocol):
    """Puts scenes and texts of any sensor and wording into one space of unit vectors."""

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and preprocessing: equal fingerprints give equal vectors."""
        ...

    @property
    def dim(self) -> int:
        """Length D of every vector."""
        ...

    def encode_scenes(self, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """Embed N scenes: (N, D), unit length. Scenes may differ in sensor and size."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts: (N, D), unit length."""
        ...

    def similarity_map(self, scene: Scene, texts: Sequence[str]) -> NDArray[np.float32]:
        """Cosine of every patch with every text: (T, h, w), h and w proportional to the scene."""
        ...

    def change_map(self, before: Scene, after: Scene, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Cosine of what became of every place with every text: (T, h, w); None from an encoder without such maps."""
        ...


class LanguageModel(Protocol):
    """Turns questions into plans and measured facts into sentences; never invents a number."""

    @property
    def name(self) -> str:
        """What to print as the model that answered."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 over its weights: equal fingerprints give equal plans."""
        ...

    def plan(self, question: str, context: str) -> Plan:
        """Read a question as a Plan; `context` says in words what is being asked about."""
        ...

    def word(self, facts: Sequence[Fact], hits: Sequence[Hit], question: str) -> Iterator[str]:
        """Yield the answer piece by piece; every number in it is a fact, every [n] a hit."""
        ...


class Retriever(Protocol):
    """Finds numbered evidence in an archive."""

    def search(self, query: str | Scene | NDArray[np.float32], k: int = 10, *, where: str | None = None) -> list[Hit]:
        """Return at most k hits, best first."""
        ...
