"""What a question itself names: its noun chunks, relations and units. A plan can say nothing else."""

from __future__ import annotations

import re
import unicodedata

from rsvlm.errors import QueryError
from rsvlm.language.plan import MAX_PHRASE

MAX_QUESTION = 2000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RELATION_WORDS = {
    "more": "more larger greater bigger most exceed exceeds outnumber",
    "less": "less fewer smaller least",
    "equal": "equal same as",
    "top": "top above upper north northern",
    "bottom": "bottom below lower south southern beneath",
    "left": "left west western",
    "right": "right east eastern",
    "next to": "next near beside adjacent alongside close",
    "new": "new newly appear appeared built constructed gained added grow grew expand expanded emerged",
    "lost": "lost lose disappear disappeared vanish vanished removed demolished cleared gone shrink shrank destroyed",
    "and": "and both",
    "or": "or",
}
PLACES = ("top", "bottom", "left", "right", "next to")
RELATIONS_OF = {
    "presence": (*PLACES, "and", "or"),
    "count": PLACES,
    "area": PLACES,
    "comparison": ("more", "less", "equal"),
    "locate": (*PLACES, "and"),
    "change": ("new", "lost"),
}
UNIT_PATTERNS = {
    "percent": r"%|\b(percent|percentage|per cent|share|fraction|proportion)\b",
    "ha": r"\b(ha|hectares?)\b",
    "km2": r"\b(km2|km²|km\^2|sq\.? ?km|square km|square kilomet(er|re)s?)(?!\w)",
    "m2": r"\b(m2|m²|m\^2|sqm|square met(er|re)s?)(?!\w)",
}
METADATA_CUES = {
    "date": "when date year month day season time hour taken acquired captured recorded",
    "sensor": "sensor satellite instrument camera radar optical",
    "place": "where coordinates location located latitude longitude place country city region continent climate",
    "resolution": "resolution pixel pixels gsd sampling detail detailed",
    "bands": "band bands channel channels spectral wavelength wavelengths",
    "size": "size dimensions wide width height large big rows columns pixels",
}
# What no image tells: depth, distance, length, temperature, worth, population, owners.
UNMEASURABLE = re.compile(
    r"\b(deep|deeper|deepest|depths?|how far|how tall|(?<!sampling )distances?|hot(?! springs?)|hottest|temperatures?"
    r"|prices?|costs?|worth|populations?|owners?|owns?|owned|km|kilomet(er|re)s?)\b",
    re.IGNORECASE,
)
NEGATION = re.compile(r"\b(no|without|(?<!or )not)\b(?!-)", re.IGNORECASE)
SEARCHING = re.compile(
    r"(please |can you )?(find|search|retrieve|get|show|look|list|give|images|scenes|photos|pictures)\b", re.IGNORECASE
)
BARE_WORDS = 3  # a question of so few words, all of one phrase, asks whether that is there
# No phrase starts or ends with one of these, nor with a word that names a relation or a unit.
OUTSIDE = _words(
    """
    a about after all am among an any anything anywhere archive are around at available be been before being
    between both bounding box but by can change changed chip chips collection compare contain contained containing
    contains could count counted cover covered covering covers cross crosses date dates describe detect detected
    did difference differences different do does done draw drawn each every everything exist exists few file find
    first for found from get give go had happened has have here highlight how i if image images in indicate into
    is it its just known lie lies like list locate located look looking many mark me metre much my no not now
    number occupies occupy occur on other our out outline over parked part people photo photos picture pictures
    please point position present probably retrieve scene scenes search second see seen segment show showing shown
    shows similar since so some something spot stand stands take taken tell than that the their them then there
    these they this those through tile tiles to total toward two under up us versus very view visible vs was we
    were what when where which whose why will with within would you your
    """
)
NO_START = _words(
    """
    amount area areas extent ground kind kinds land of presence quantity size surface type types
    """
)
NO_END = frozenset({"of"})
NOT_THERE = _words("caption changes description goodbye hello help hey hi overview summary test thanks")
BLANK = "thing"
CUES = frozenset(word for words in RELATION_WORDS.values() for word in words.split())


def clean(question: str) -> str:
    """One line without control characters or lone surrogates; raises QueryError when empty or too long."""
    if len(question) > MAX_QUESTION:
        raise QueryError(f"a question has at most {MAX_QUESTION:,} characters; this one has {len(question):,}")
    text = question.encode("utf-8", "replace").decode("utf-8")
    text = "".join(" " if unicodedata.category(c) in {"Cc", "Zl", "Zp"} else c for c in text)
    text = " ".join(text.split())
    if not text:
        raise QueryError("the question is empty; ask for example 'How much of it is water?'")
    return text


def singular(phrase: str) -> str:
    """The phrase with its last word in the singular, as far as the English ending tells."""
    word = phrase.rpartition(" ")[2].lower()
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is", "series", "species")):
        return phrase
    if word.endswith("ies") and len(word) > 4:
        return phrase[:-3] + "y"
    return phrase[:-2] if word.endswith(("sses", "xes", "ches", "shes", "buses")) else phrase[:-1]


def _bare(word: str) -> tuple[str, str, str]:
    """The punctuation before a word, the word, the punctuation after it."""
    kept = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"]
    if not kept:
        return word, "", ""
    return word[: kept[0]], word[kept[0] : kept[-1] + 1], word[kept[-1] + 1 :]


class Reading:
    """A question taken apart. Raises QueryError when it is empty or too long."""

    def __init__(self, question: str) -> None:
        self.question = clean(question)
        text = self.question.lower() if self.question.isupper() else self.question
        self._words = [_bare(word) for word in text.split()]
        self._plain = [
            word.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").removesuffix("'s")
            for _, word, _ in self._words
        ]
        self._in_unit = self._unit_positions(text)

    @staticmethod
    def _unit_positions(text: str) -> frozenset[int]:
        pattern = re.compile("|".join(UNIT_PATTERNS.values()), re.IGNORECASE)
        covered = {i for match in pattern.finditer(text) for i in range(*match.span())}
        words = enumerate(re.finditer(r"\S+", text))
        return frozenset(position for position, word in words if covered & set(range(*word.span())))

    def relations(self, task: str) -> tuple[str, ...]:
        """The relations the question names, of those the task knows."""
        named = set(self._plain)
        return tuple(r for r in RELATIONS_OF.get(task, ()) if named & set(RELATION_WORDS[r].split()))

    def units(self, task: str) -> tuple[str, ...]:
        """The units the question names, where the task has one."""
        if task not in ("area", "change"):
            return ()
        return tuple(unit for unit, pattern in UNIT_PATTERNS.items() if re.search(pattern, self.question, re.I))

    def metadata(self) -> tuple[str, ...]:
        """What of the file's own facts the question names."""
        named = set(self._plain)
        return tuple(target for target, cues in METADATA_CUES.items() if named & set(cues.split()))

    @property
    def searches(self) -> bool:
        """Whether the question is a search of the archive, for something and not for what has it not."""
        phrases = self.phrases("search")
        lost = NEGATION.search(self.question) and not any(NEGATION.search(phrase, 1) for phrase in phrases)
        return SEARCHING.match(self.question) is not None and bool(phrases) and not lost

    @property
    def cannot_be_measured(self) -> bool:
        """Whether the question is about what no image tells, or about what is not there."""
        text = self.question
        for pattern in UNIT_PATTERNS.values():  # square kilometres are no kilometres
            text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
        return UNMEASURABLE.search(text) is not None or NEGATION.search(text) is not None

    def bare(self) -> str:
        """The phrase of a question that is nothing else ("storage tanks?"), "" where it says more."""
        whole = self._chunks(whole=False) == [(0, len(self._words) - 1)] and len(self._words) <= BARE_WORDS
        words = set(self._plain)
        of_the_file = words <= set(" ".join(METADATA_CUES.values()).split())
        if not whole or of_the_file or self.cannot_be_measured or NOT_THERE & words:
            return ""
        return next(iter(self.phrases("presence")), "")

    def phrases(self, task: str) -> tuple[str, ...]:
        """What the task may be about: noun chunks in the question's order, for a search whole descriptions."""
        found = [self._phrase(first, last) for first, last in self._chunks(whole=task == "search")]
        return tuple(phrase for phrase in found if len(phrase) <= MAX_PHRASE)

    def _chunks(self, *, whole: bool) -> list[tuple[int, int]]:
        """Runs of words between punctuation, for measured tasks also between small words; first and last position."""
        runs: list[list[int]] = [[]]
        for position, (before, _, after) in enumerate(self._words):
            out = self._outside(position, whole=whole)
            if before or (out and not whole):
                runs.append([])
            if not out or (whole and runs[-1]):
                runs[-1].append(position)
            if after:
                runs.append([])
        return [(run[0], run[-1]) for run in (self._trimmed(run, whole=whole) for run in runs) if run]

    def _trimmed(self, run: list[int], *, whole: bool) -> list[int]:
        while run and (self._outside(run[-1], whole=whole) or self._plain[run[-1]] in NO_END):
            run = run[:-1]
        while run and (self._outside(run[0], whole=whole) or self._plain[run[0]] in NO_START):
            run = run[1:]
        return run

    def skeleton(self) -> str:
        """The question with what it is about blanked out, so that questions of one build look alike."""
        shape: list[str] = []
        for position, (before, word, after) in enumerate(self._words):
            if self._outside(position, whole=False) or self._plain[position] in NO_END:
                shape.append(before + word + after)
            elif shape and shape[-1] == BLANK:
                shape[-1] = BLANK + after
            else:
                shape.append(BLANK + after)
        return " ".join(shape)

    def _outside(self, position: int, *, whole: bool) -> bool:
        word = self._plain[position]
        cue = not whole and word in CUES
        return not word or word in OUTSIDE or cue or position in self._in_unit

    def _phrase(self, first: int, last: int) -> str:
        words = [word for _, word, _ in self._words[first : last + 1]]
        if first == 0 and words[0].istitle():
            words[0] = words[0].lower()
        return singular(" ".join(words))
