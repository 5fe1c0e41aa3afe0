"""Caption metrics by the COCO protocol: BLEU-1..4, ROUGE-L and CIDEr in pycocoevalcap's own arithmetic."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from eval.statistics import Statistics, Sums
from rsvlm.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PROTOCOL = (
    "COCO captions as pycocoevalcap 1.2: PTB-style tokens, lower-cased, without punctuation; corpus BLEU-1..4 with the "
    "closest reference length (shorter on a tie); ROUGE-L, beta 1.2, precision and recall maximised over references "
    "separately; CIDEr-D, document frequencies from the evaluated references, n = 1..4, sigma 6; all printed x100"
)
ORDERS = 4  # BLEU-1 to BLEU-4
TINY, SMALL = 1e-15, 1e-9  # BleuScorer.compute_score's guards against division by zero

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";"])
SPELLED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
SPLIT = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"}
PLAIN = str.maketrans(  # single quotes, double quotes, dashes and ellipsis of typesetters, as Stanford's lexer has them
    {"\u2018": "'", "\u2019": "'", "\u201c": " `` ", "\u201d": " '' ", '"': " '' "}
    | {"\u2013": " -- ", "\u2014": " -- ", "\u2026": " ... ", "½": " 1/2 ", "€": "$", "£": "#"}
)
WORD = r"[^\W_²³¹]+"
ABBREVIATED = (
    "mrs? ms dr prof gen col sen rep gov st mt ft ave blvd rd sq etc vs inc ltd corp co jr sr al ca "
    "jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri no(?=\\.\\s*\\d)"
)
OPENING = "The|THE|There|It|This|That|These|An?|In|But|Some|Many|He|She|We|They|One|At|As|When|While|Here"
TOKEN = re.compile(
    rf"""
      </?[a-z]\w*>                                             # <image>, </p>
    | (?:{ABBREVIATED.replace(" ", "|")})\.(?!\w)               # the dot is part of it
    | (?:[a-z]\.){{2,}}(?![a-z])                               # u.s., i.e.
    | [a-z]\.(?![a-z]|\s+(?-i:{OPENING})\b)                   # an initial, or the m of 10 m.
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                                # R&D
    | '(?:[sdm]|ll|re|ve)(?![\w']) | n't(?!\w)                # what an earlier word gave off
    | o'[a-z]+ | '\d0s                                        # o'clock, '90s
    | [a-z]+?(?=n't(?!\w))                                    # do n't
    | [a-z]+(?:[.?!][a-z]+)+                                  # no space after the stop: cars.and
    | {WORD}(?:[_-]{WORD})*(?:/{WORD}(?:-{WORD})*){{1,2}}       # and/or, 1/2
    | (?<![^\W_])[-+]?\d*(?:[.,:]\d+)+(?![^\W_])             # 10,000 and 3.5 and -0.5
    | (?<![^\W_])[-+]\d+(?![^\W_])                           # -5
    | {WORD}(?:[_-]{WORD})*                                   # t-junction, pond_382
    | [\#@][a-z]\w* | -+ | _+ | [?!]+ | \.{{3}} | `` | '' | [^\s\U00010000-\U0010ffff]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenise(text: str) -> str:
    """PTB-style tokens of a caption, lower-cased, without punctuation, joined by single spaces.

    A reading of Stanford's PTBTokenizer 3.4.1 as pycocoevalcap calls it, without Java; it differs from it on
    web addresses, smileys and HTML entities, which captions have none of. Brackets stay, as -lrb- and so on,
    because pycocoevalcap leaves them too.
    """
    found = (token.lower() for token in TOKEN.findall(text.translate(PLAIN)))
    return " ".join(SPLIT.get(token, SPELLED.get(token, token)) for token in found if token not in DROPPED)


def caption_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool = False
) -> Statistics:
    """BLEU-1..4, ROUGE-L and CIDEr, all x100, over images.

    CIDEr weighs an n-gram by how few of the evaluated images have it in their references. So it is 0 for a single
    image (log 1), and its intervals keep the weights of the full set. An empty prediction scores 0. A reference without
    a word beside others (RSICD has three) stays and is divided by, as pycocoevalcap does.

    Args:
        predictions: one caption for each image.
        references: the captions people wrote of each image, at least one, in the same order.
        tokenised: the texts are as `tokenise` gives them; else it is applied here.

    Raises:
        EvaluationError: the lists differ in length, or an image has no reference with a word.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    told, truth = _tokens(predictions, references, tokenised=tokenised)
    pairs = _by_image(told, truth)
    _, rouge = Rouge().compute_score(*pairs)
    _, cider = Cider().compute_score(*pairs)
    rouge = np.where([caption.strip() != "" for caption in told], rouge, 0)  # Rouge has "" and "." agree in full
    rows = np.column_stack([np.ones(len(told)), rouge, cider, _bleu_counts(told, truth)])
    return Statistics("images", rows, _values)


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of the whole set and of each image, x100, by the Java scorer that pycocoevalcap carries.

    The score of the set is not the mean over images: METEOR adds up its counts first.

    Raises:
        EvaluationError: Java is missing or stopped, or the lists are as `caption_statistics` refuses them.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    if shutil.which("java") is None:
        raise EvaluationError("METEOR needs Java and there is none on the path; install a JRE or leave METEOR out")
    told, truth = _tokens(predictions, references, tokenised=False)
    scorer = Meteor()
    try:
        whole, each = scorer.compute_score(*_by_image(told, truth))
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            scorer.meteor_p.stdin.close()
        scorer.lock.release()  # compute_score leaves it held, and __del__ would wait for it forever
        raise EvaluationError(f"METEOR's Java scorer stopped ({error}); give it 2 GB of memory") from error
    return 100 * whole, [100 * score for score in each]


def constant_caption(references: Sequence[Sequence[str]]) -> str:
    """The reference that occurs most often among all images; the alphabetically first on a tie."""
    found = Counter(caption for captions in references for caption in captions)
    if not found:
        raise EvaluationError("there is no reference to take a constant caption from; give at least one")
    return min(found, key=lambda caption: (-found[caption], caption))


def random_captions(references: Sequence[Sequence[str]], seed: int) -> list[str]:
    """For each image one reference of another image, image and reference drawn evenly.

    Raises:
        EvaluationError: there are fewer than two images, or one of them has no reference.
    """
    if len(references) < 2 or not all(references):
        raise EvaluationError("random captions come from other images; give at least two, each with a reference")
    chance = np.random.default_rng(seed)
    steps = chance.integers(1, len(references), size=len(references))
    others = [references[(image + step) % len(references)] for image, step in enumerate(steps)]
    return [captions[int(chance.integers(len(captions)))] for captions in others]


def _tokens(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, tokenised: bool
) -> tuple[list[str], list[list[str]]]:
    if len(predictions) != len(references) or not predictions:
        raise EvaluationError(
            f"got {len(predictions)} predictions and the references of {len(references)} images; "
            "give as many of one as of the other, and at least one"
        )
    read = str if tokenised else tokenise
    told = [read(caption) for caption in predictions]
    truth = [[read(caption) for caption in captions] for captions in references]
    for image, captions in enumerate(truth):
        if not any(caption.strip() for caption in captions):
            raise EvaluationError(f"image {image} has no reference with a word; give it one or take the image out")
    return told, truth


def _by_image(told: list[str], truth: list[list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and predictions as pycocoevalcap's scorers take them."""
    return dict(enumerate(truth)), {image: [caption] for image, caption in enumerate(told)}


def _bleu_counts(told: list[str], truth: list[list[str]]) -> NDArray[np.float64]:
    """(N, 10): n-grams correct and told for n = 1..4, words told, words of the closest reference."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=ORDERS)
    for pair in zip(told, truth, strict=True):
        scorer += pair
    return np.array([[*part["correct"], *part["guess"], *_lengths(**part)] for part in scorer.ctest], np.float64)


def _lengths(testlen: int, reflen: list[int], **_: object) -> tuple[int, int]:
    return testlen, min((abs(length - testlen), length) for length in reflen)[1]


def _values(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """Corpus BLEU as BleuScorer.compute_score has it, means of ROUGE-L and CIDEr."""
    images, rouge, cider = sums[:, 0], sums[:, 1], sums[:, 2]
    correct, told, lengths = sums[:, 3:7], sums[:, 7:11], sums[:, 11:]
    precision = np.cumprod((correct + TINY) / (told + SMALL), axis=1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (lengths[:, 0] + TINY) / (lengths[:, 1] + SMALL)
    brevity = np.exp(np.minimum(0, 1 - 1 / ratio))
    bleu = {f"BLEU-{order + 1}": 100 * precision[:, order] * brevity for order in range(ORDERS)}
    return {**bleu, "ROUGE-L": 100 * rouge / images, "CIDEr": 100 * cider / images}
