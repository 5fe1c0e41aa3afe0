"""Metrics over short answers: accuracy by question type with and without counting, counts as errors and as classes."""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eval.statistics import Statistics, Sums, ratio
from rsvlm.errors import EvaluationError

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
NUMBERS = {word: value for value, word in enumerate(f"{UNITS} seventeen eighteen nineteen".split(" "))}
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = {word: 10 * place for place, word in enumerate(TENS_WORDS.split(" "), start=2)}
ARTICLES = frozenset({"a", "an", "the"})
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
PERCENT = re.compile(r"(?<=\d)\s*(?:%|per\s?cent\b)")
UNIT = re.compile(r"(?<=\d)\s*(km2|m2|ha|km|m)\b")
TOKEN = re.compile(r"(?<![\w.])-?\d*\.?\d+%?(?!\w)|[^\W_]+")

NUMBER = r"-?\d{1,15}(?:\.\d{1,15})?"  # more digits are a model running on, not a number
SIZE = re.compile(
    rf"(?P<more>more than |over )?(?:between )?(?:{NUMBER}(?: \w+)? (?:and|to) )?(?P<size>{NUMBER})(?: (?P<unit>\w+))?"
)
CLASS_EDGES = (0, 10, 100, 1000)  # 0; 1-10; 11-100; 101-1000; more
COUNTS = {"": 1.0}
AREAS = {"m2": 1.0, "ha": 1e4, "km2": 1e6}  # in m2

Matcher = Callable[[str, str], bool]  # prediction, answer


@lru_cache(maxsize=4096)
def normalise(answer: str) -> str:
    """An answer as it is compared: lower case, no articles and punctuation, number words up to 99 as digits.

    "Yes." is "yes", "The Twenty-One" is "21", "1,200" is "1200", "5 percent" is "5%", "85m²" is "85 m2"; units are
    kept. An article that is the whole answer stays: it may be the letter of a choice.
    """
    text = unicodedata.normalize("NFKC", answer).lower().replace("'", "").replace("\u2019", "")
    text = UNIT.sub(r" \1", PERCENT.sub("%", THOUSANDS.sub("", text)))
    words = _digits(TOKEN.findall(text))
    return " ".join([word for word in words if word not in ARTICLES] or words)


def _digits(words: list[str]) -> list[str]:
    found: list[str] = []
    tens = 0
    for word in words:
        unit = NUMBERS.get(word, 0)
        if tens and 0 < unit < 10:
            found[-1] = str(tens + unit)
        else:
            found.append(str(TENS.get(word, NUMBERS.get(word, word))))
        tens = TENS.get(word, 0)
    return found


def number(answer: str) -> float:
    """The number an answer consists of; NaN where it is not one."""
    text = normalise(answer)
    return float(text) if re.fullmatch(NUMBER, text) else float("nan")


def _exact(prediction: str, answer: str) -> bool:
    return normalise(prediction) == normalise(answer)


def _substring(prediction: str, answer: str) -> bool:
    return normalise(answer) in normalise(prediction)


def _token_recall(prediction: str, answer: str) -> bool:
    return set(normalise(answer).split()) <= set(normalise(prediction).split())


def _counts(prediction: str, answer: str) -> bool:
    return _exact(prediction, answer) or _size_class(prediction, COUNTS) == _size_class(answer, COUNTS)


def _areas(prediction: str, answer: str) -> bool:
    return _exact(prediction, answer) or _size_class(prediction, COUNTS | AREAS) == _size_class(answer, AREAS)


def _size_class(answer: str, units: Mapping[str, float]) -> float:
    """Which class of CLASS_EDGES a size or a named range falls into; NaN, which equals nothing, where none."""
    found = SIZE.fullmatch(normalise(answer))
    if not found or (found["unit"] or "") not in units:
        return float("nan")
    size = float(found["size"]) * units[found["unit"] or ""]
    if size < 0:
        return float("nan")
    return float(bisect_right(CLASS_EDGES, size) if found["more"] else bisect_left(CLASS_EDGES, size))


MATCHERS: dict[str, Matcher] = {
    "exact": _exact,
    "gt-substring": _substring,
    "token-recall": _token_recall,
    "rsvqa-lr-counts": _counts,
    "rsvqa-hr-areas": _areas,
}
PROTOCOLS = {
    "exact": "the normalised prediction is the normalised answer",
    "gt-substring": 'the normalised answer occurs anywhere in the normalised prediction, so "no" also in "not"',
    "token-recall": "every word of the normalised answer is a word of the normalised prediction, in any order",
    "rsvqa-lr-counts": "counts fall into the same class of 0; 1-10; 11-100; 101-1000; more; other answers as exact",
    "rsvqa-hr-areas": "areas fall into the same class of 0; 1-10; 11-100; 101-1000; more m2; other answers as exact",
}
OWN_KEYS = (
    *("OA", "AA", "OA_without_counting", "AA_without_counting", "answered"),
    *("count_MAE", "count_answered", "count_classes"),
)


def answer_statistics(
    predictions: Sequence[str],
    answers: Sequence[str],
    types: Sequence[str],
    *,
    matcher: str = "exact",
    counting: Sequence[str] = ("count",),
) -> Statistics:
    """Accuracy over questions: OA pooled, AA the mean of types, both also without counting, and each type by name.

    An empty prediction abstains: it is wrong, and missing from `answered`. `count_MAE` is over the counting questions
    where prediction and answer are numbers, `count_answered` how many percent those are, `count_classes` the accuracy
    of counts as classes (0; 1-10; 11-100; 101-1000; more). What has no question is NaN.

    Args:
        predictions: one short answer for each question.
        answers: the true ones, in the same order.
        types: the kind of each question, such as "presence".
        matcher: a name in MATCHERS: when a prediction counts as right.
        counting: the types whose answers are counts.

    Raises:
        EvaluationError: the lists differ in length, an answer is empty, a type is named as a metric is, or there is
            no such matcher.
    """
    if matcher not in MATCHERS:
        raise EvaluationError(f"there is no matcher {matcher!r}; take one of {', '.join(MATCHERS)}")
    _check(predictions, answers, types)
    pairs = list(zip(predictions, answers, strict=True))
    right = np.array([bool(told.strip()) and MATCHERS[matcher](told, truth) for told, truth in pairs])
    names = sorted(set(types))
    of_type = np.array(types)[:, None] == np.array(names)  # (N, T)
    counts = np.array(
        [_count_row(*pair) if kind in counting else (0, 0, 0, 0) for pair, kind in zip(pairs, types, strict=True)]
    )
    answered = np.array([bool(told.strip()) for told in predictions])
    rows = np.column_stack([of_type, of_type & right[:, None], counts, answered]).astype(np.float64)
    plain = np.array([name not in counting for name in names])
    return Statistics("questions", rows, lambda sums: _values(sums, names, plain))


def majority_answers(answers: Sequence[str], types: Sequence[str]) -> list[str]:
    """For each question the most frequent answer of its type; the alphabetically first on a tie."""
    _check(answers, answers, types)
    best = {kind: _most_frequent(found) for kind, found in _by_type(answers, types).items()}
    return [best[kind] for kind in types]


def constant_answer(answers: Sequence[str]) -> str:
    """The most frequent answer of all; the alphabetically first on a tie."""
    _check(answers, answers, answers)
    return _most_frequent(answers)


def random_answers(answers: Sequence[str], types: Sequence[str], seed: int) -> list[str]:
    """For each question an answer drawn from those of its type, as often as they occur."""
    _check(answers, answers, types)
    chance = np.random.default_rng(seed)
    found = _by_type(answers, types)
    return [found[kind][int(chance.integers(len(found[kind])))] for kind in types]


def _most_frequent(answers: Sequence[str]) -> str:
    found = Counter(answers)
    return min(found, key=lambda answer: (-found[answer], answer))


def _by_type(answers: Sequence[str], types: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for answer, kind in zip(answers, types, strict=True):
        found.setdefault(kind, []).append(answer)
    return found


def _check(predictions: Sequence[str], answers: Sequence[str], types: Sequence[str]) -> None:
    if not len(predictions) == len(answers) == len(types) or not answers:
        raise EvaluationError(
            f"got {len(predictions)} predictions, {len(answers)} answers and {len(types)} types; "
            "give one of each for every question, and at least one"
        )
    for question, answer in enumerate(answers):
        if not normalise(answer):
            raise EvaluationError(f"the answer of question {question} is {answer!r}; give it at least one word")
    for kind in sorted(set(types) & set(OWN_KEYS)):
        raise EvaluationError(f"a question type cannot be named {kind!r} as a metric is; rename the type")


def _count_row(prediction: str, answer: str) -> tuple[float, float, float, float]:
    """Questions, both numbers, absolute error, same class."""
    error = abs(number(prediction) - number(answer))
    known = not math.isnan(error)
    return 1, float(known), error if known else 0, float(_counts(prediction, answer))


def _values(sums: Sums, names: list[str], plain: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    kinds = len(names)
    asked, right = sums[:, :kinds], sums[:, kinds : 2 * kinds]
    counts, numbers, error, classes, answered = sums[:, 2 * kinds :].T
    share = ratio(right, asked)  # (R, T)
    return {
        "OA": ratio(right.sum(axis=1), asked.sum(axis=1)),
        "AA": _mean_of_known(share),
        "OA_without_counting": ratio(right[:, plain].sum(axis=1), asked[:, plain].sum(axis=1)),
        "AA_without_counting": _mean_of_known(share[:, plain]),
        **{name: share[:, place] for place, name in enumerate(names)},
        "count_MAE": ratio(error, numbers) / 100,
        "count_answered": ratio(numbers, counts),
        "count_classes": ratio(classes, counts),
        "answered": ratio(answered, asked.sum(axis=1)),
    }


def _mean_of_known(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the types that a resampling has questions of."""
    known = np.isfinite(share)
    return ratio(np.where(known, share, 0).sum(axis=1), known.sum(axis=1)) / 100
