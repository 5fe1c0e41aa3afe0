"""The assistant: plan, measure, retrieve, word. It answers, captions, grounds and compares, and shows every step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rsvlm.answer import Answer, Fact, Hit, nothing_like_that
from rsvlm.change import Change
from rsvlm.change import compare as compare_scenes
from rsvlm.errors import QueryError
from rsvlm.language.plan import Plan
from rsvlm.measure import Measured, measure
from rsvlm.raster import Door, open_raster
from rsvlm.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rsvlm.interfaces import Encoder, LanguageModel, Retriever

MAX_PIXELS = 16_000_000  # of one band; larger scenes are measured on averaged pixels, and the facts say so
LEAST_CONFIDENCE = 0.2  # facts below this are not stated as an answer
EVIDENCE = 5  # hits shown for a search
SIMILAR = 3  # hits shown beside a description
MAX_PHRASE = 120


class Assistant:
    """Answers about images and archives. Its parts are an encoder, a language model and, if wanted, a retriever.

    Not for use from several threads at once.
    """

    def __init__(
        self,
        encoder: Encoder,
        language: LanguageModel,
        retriever: Retriever | None = None,
        *,
        door: Door | None = None,
    ) -> None:
        self.encoder, self.language, self.retriever = encoder, language, retriever
        self.door = door or Door()

    @classmethod
    def from_pretrained(
        cls,
        *,
        encoder: str | Path | None = None,
        language: str | Path | None = None,
        archive: Retriever | None = None,
        device: str = "cpu",
    ) -> Assistant:
        """Load the shipped encoder and the base language model, or others by folder or name.

        Raises ModelNotFoundError or WeightsError where a part is missing or damaged.
        """
        from rsvlm.encoder.model import SpectralEncoder
        from rsvlm.language.model import CausalLanguageModel

        return cls(
            SpectralEncoder.from_pretrained(encoder, device=device),
            CausalLanguageModel.from_pretrained(language, device=device),
            archive,
        )

    def ask(self, image: str | Path | Scene | None, question: str, *, sensor: str | None = None) -> Answer:
        """Answer a question about an image, or about the archive when `image` is None."""
        return _last(self.stream_ask(image, question, sensor=sensor))

    def stream_ask(
        self, image: str | Path | Scene | None, question: str, *, sensor: str | None = None
    ) -> Iterator[Answer]:
        """Yield the answer as it grows: first the plan, then with facts and regions, then word by word."""
        scene = None if image is None else self.read(image, sensor=sensor)
        plan = self.language.plan(question, context_of(scene))
        answer = Answer("", question, plan, (), (), (), self.language.name, False, scene.source if scene else "")
        yield answer
        if scene is None or plan.task == "search":
            yield from self._answer_from_archive(answer)
        else:
            measured = measure(plan, scene, self.encoder)
            hits = self._similar(scene) if plan.task == "describe" else ()
            yield from self._word(answer, measured, hits)

    def caption(self, image: str | Path | Scene, *, sensor: str | None = None) -> Answer:
        """Describe an image in a sentence or two."""
        return _last(self.stream_caption(image, sensor=sensor))

    def stream_caption(self, image: str | Path | Scene, *, sensor: str | None = None) -> Iterator[Answer]:
        """Yield the description as it grows."""
        scene = self.read(image, sensor=sensor)
        answer = self._start("What does this scene show?", Plan("describe"), scene)
        yield from self._word(answer, measure(answer.plan, scene, self.encoder), ())

    def ground(self, image: str | Path | Scene, phrase: str, *, sensor: str | None = None) -> Answer:
        """Outline what a phrase names; no regions and a plain "no" where it is not there."""
        return _last(self.stream_ground(image, phrase, sensor=sensor))

    def stream_ground(self, image: str | Path | Scene, phrase: str, *, sensor: str | None = None) -> Iterator[Answer]:
        """Yield the grounding as it grows."""
        phrase = " ".join(phrase.encode("utf-8", "replace").decode().split())
        if not phrase or len(phrase) > MAX_PHRASE:
            raise QueryError(f"a phrase of 1 to {MAX_PHRASE} characters is needed; got {len(phrase)}")
        scene = self.read(image, sensor=sensor)
        answer = self._start(f"Where is {phrase}?", Plan("locate", phrase), scene)
        yield from self._word(answer, measure(answer.plan, scene, self.encoder), ())

    def compare(
        self, before: str | Path | Scene, after: str | Path | Scene, question: str = "", *, sensor: str | None = None
    ) -> Answer:
        """Say what changed between two dates, or what a question asks about the change."""
        return _last(self.stream_compare(before, after, question, sensor=sensor))

    def stream_compare(
        self, before: str | Path | Scene, after: str | Path | Scene, question: str = "", *, sensor: str | None = None
    ) -> Iterator[Answer]:
        """Yield the comparison as it grows."""
        first, second = self.read(before, sensor=sensor), self.read(after, sensor=sensor)
        answer, change = self.measure_change(first, second, question)
        yield from self._word(answer, change.measured, ())

    def measure_change(self, before: Scene, after: Scene, question: str = "") -> tuple[Answer, Change]:
        """The plan and the measured change of two scenes, not yet worded; the change holds the mask to export."""
        plan = self.language.plan(question, "two dates of one place") if question.strip() else Plan("change")
        plan = replace(plan, task="change") if plan.task != "abstain" else plan
        answer = self._start(question or "What changed?", plan, after)
        if plan.task == "abstain":
            empty = compare_scenes(Plan("change"), before, after, self.encoder)
            return answer, replace(empty, measured=Measured(reason="this cannot be answered from imagery"))
        return answer, compare_scenes(plan, before, after, self.encoder)

    def word_change(self, answer: Answer, change: Change) -> Answer:
        """Put a measured change into sentences."""
        return _last(self._word(answer, change.measured, ()))

    def read(self, image: str | Path | Scene, *, sensor: str | None = None) -> Scene:
        """Open an image; one of more than 16 million pixels is averaged down to that."""
        if isinstance(image, Scene):
            return image
        with open_raster(image, sensor=sensor, door=self.door) as raster:
            height, width = raster.grid.shape
            shrink = math.sqrt(height * width / MAX_PIXELS)
            shape = None if shrink <= 1 else (max(1, int(height / shrink)), max(1, int(width / shrink)))
            return raster.read(shape=shape)

    def _start(self, question: str, plan: Plan, scene: Scene) -> Answer:
        return Answer("", question, plan, (), (), (), self.language.name, False, scene.source)

    def _answer_from_archive(self, answer: Answer) -> Iterator[Answer]:
        if self.retriever is None:
            reason = "there is no image and no archive to answer from; give one of them"
            yield from self._word(answer, Measured(reason=reason), ())
            return
        if answer.plan.task == "abstain":
            yield from self._word(answer, Measured(reason="this cannot be answered from imagery"), ())
            return
        hits = tuple(self.retriever.search(answer.plan.target or answer.question, EVIDENCE))
        reason = nothing_like_that(hits) if hits else "the archive holds nothing to answer from"
        yield from self._word(answer, Measured(reason=reason), hits)

    def _similar(self, scene: Scene) -> tuple[Hit, ...]:
        return () if self.retriever is None else tuple(self.retriever.search(scene, SIMILAR))

    def _word(self, answer: Answer, measured: Measured, hits: Sequence[Hit]) -> Iterator[Answer]:
        """Word what was measured; abstain where nothing was, or nothing sure enough."""
        facts, reason = measured.facts, measured.reason
        if not reason and not hits and facts and facts[0].confidence < LEAST_CONFIDENCE:
            reason = f"what was measured is too unsure to state ({facts[0].how})"
        if reason:
            facts = (Fact("abstain", reason, "", "", 1.0),)
        regions = () if reason else measured.regions
        answer = replace(answer, facts=facts, regions=regions, hits=tuple(hits), abstained=bool(reason))
        yield answer
        for piece in self.language.word(facts, hits, answer.question):
            answer = replace(answer, text=answer.text + piece)
            yield answer


def context_of(scene: Scene | None) -> str:
    """What is being asked about, in words, for the planner."""
    return "an archive of satellite images" if scene is None else f"one image by {scene.sensor.title}"


def _last(answers: Iterator[Answer]) -> Answer:
    *_, answer = answers
    return answer
