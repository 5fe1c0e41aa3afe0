"""The best and the worst lines of an evaluation, each with what was asked, said and true, and with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.maps import read_map
from eval.metrics.ranking import CUTS, best
from eval.pictures import BOTH, LEFT_OUT, SAID, TRUE, Shown, coloured, compared, outlined, palette, photo, shown
from eval.predictions import text_of
from eval.tasks.retrieval import BY_LABEL, BY_PLACE, unpacked_vector
from rsvlm.raster import read_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eval.finished import Finished
    from eval.manifests import Changed, Grounded, Mapped

COUNT = 6
Facts = tuple[tuple[str, str], ...]
Legend = tuple[tuple[str, str], ...]  # what, and its colour as #rrggbb


@dataclass(frozen=True, slots=True)
class Example:
    """One line: its title, what there is to know about it as pairs of name and text, and its pictures."""

    title: str
    facts: Facts
    pictures: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """The best and the worst, how they were ordered, and the colours in their pictures."""

    order: str
    best: list[Example]
    worst: list[Example]
    legend: Legend


def examples_of(finished: Finished) -> Examples:
    """At most six of the best and six of the worst, none in both; ties in order of the manifest."""
    kind = _kind(finished)
    shows = [[kind.show(finished, position) for position in each] for each in extremes(kind.scores(finished))]
    return Examples(kind.order, shows[0], shows[1], kind.legend(finished))


def extremes(scores: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Positions of the best, best first, and of the worst, worst first; what has no score is left out."""
    known = [int(position) for position in np.flatnonzero(np.isfinite(scores))]
    top = sorted(known, key=lambda position: (-scores[position], position))[: min(COUNT, (len(known) + 1) // 2)]
    rest = [position for position in known if position not in top]
    return top, sorted(rest, key=lambda position: (scores[position], position))[:COUNT]


def no_legend(finished: Finished) -> Legend:
    """Pictures that need none."""
    return ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """How lines of one task are ordered and shown."""

    order: str
    scores: Callable[[Finished], NDArray[np.float64]]  # (N,), higher is better
    show: Callable[[Finished, int], Example]
    legend: Callable[[Finished], Legend] = no_legend


def _kind(finished: Finished) -> _Kind:
    name, settings = finished.run.task.name, finished.run.settings
    if name == "retrieval" and settings.protocol in BY_LABEL:
        return LABELS
    if name == "retrieval" and settings.protocol in BY_PLACE:
        return PAIRS
    return CHANGE_CAPTIONS if name == "change" and settings.protocol == "captions" else KINDS[name]


def _caption_query(finished: Finished, position: int) -> Example:
    row, ranks = finished.rows[position], finished.ranks[0][position]
    query = int(ranks.argmax())
    first = _nearest(finished, finished.texts[position][query], 1)[0]
    top = finished.rows[first]
    facts = (("caption", row.captions[query]), ("rank", f"{ranks[query] + 1} of {len(finished.rows)}"))
    if first == position:
        pictures: tuple[Shown, ...] = (shown("the caption's image, ranked first", partial(photo, row.picture)),)
    else:
        own = shown("the caption's image", partial(photo, row.picture))
        pictures = (own, shown(f"ranked first: line {top.number}", partial(photo, top.picture)))
    return Example(f"line {row.number}", facts, pictures)


def _label_query(finished: Finished, position: int) -> Example:
    names: dict[str, Any] = {}
    for row, vectors in zip(finished.rows, finished.texts, strict=True):
        names.update(zip(finished.run.task.texts(row), vectors, strict=True))  # type: ignore[attr-defined]
    name = sorted(names)[position]
    first = _nearest(finished, names[name], min(3, len(finished.rows)))
    value = finished.each("nDCG@10")[position]
    tops = [finished.rows[i] for i in first]
    pictures = tuple(
        shown(f"{rank}: line {top.number}, {', '.join(top.labels)}", partial(photo, top.picture))
        for rank, top in enumerate(tops, 1)
    )
    return Example(name, (("nDCG@10", f"{value:.1f}"),), pictures)


def _pair(finished: Finished, position: int) -> Example:
    row, pictures = finished.rows[position], finished.run.task.pictures
    gallery = np.stack([unpacked_vector(prediction["onto"]) for prediction in finished.predictions])
    first = int(best(finished.images[position][None], gallery, 1)[1][0, 0])
    query, partner = (partial(photo, picture) for picture in pictures(row))
    found = [shown("the query", query), shown("its place", partner)]
    if first != position:
        top = finished.rows[first]
        found.append(shown(f"ranked first: line {top.number}", partial(photo, pictures(top)[1])))
    recalls = ", ".join(f"R@{cut}" for cut in CUTS if finished.each(f"onto_R@{cut}")[position]) or "not among the ten"
    return Example(f"line {row.number}", (("place", row.picture.place), ("found in", recalls)), tuple(found))


def _nearest(finished: Finished, query: NDArray[np.float32], k: int) -> list[int]:
    found: list[int] = best(query[None], finished.images, k)[1][0].tolist()
    return found


def _scene_scores(finished: Finished) -> NDArray[np.float64]:
    """By how much the true label's cosine leads the next, or is behind the first; unlisted, as the last listed."""
    found = []
    for row, prediction in zip(finished.rows, finished.predictions, strict=True):
        labels, cosines = prediction["labels"], prediction.get("scores") or [0.0]
        cosines = [*cosines, *[cosines[-1]] * len(labels)]
        right = bool(labels) and labels[0] == row.label
        at = labels.index(row.label) if row.label in labels else len(labels) - 1
        lead = cosines[0] - cosines[1] if right else cosines[max(at, 0)] - cosines[0]
        found.append(lead + (1 if right else -1))  # any right one before any wrong one
    return np.array(found, np.float64)


def _scene(finished: Finished, position: int) -> Example:
    row, prediction = finished.rows[position], finished.predictions[position]
    cosines = prediction.get("scores", [])
    said = [
        f"{label} ({cosines[i]:.3f})" if i < len(cosines) else label for i, label in enumerate(prediction["labels"][:3])
    ]
    facts = (("true", row.label), ("predicted", ", ".join(said) or "nothing"))
    return Example(f"line {row.number}", facts, (shown("", partial(photo, row.picture)),))


def _caption(finished: Finished, position: int) -> Example:
    row, prediction = finished.rows[position], finished.predictions[position]
    pictures = (shown("", partial(photo, row.picture)),)
    return Example(f"line {row.number}", _caption_facts(finished, position, prediction), pictures)


def _caption_facts(finished: Finished, position: int, prediction: dict[str, Any]) -> Facts:
    references = " | ".join(dict.fromkeys(finished.rows[position].captions))
    scores = ", ".join(f"{name} {finished.each(name)[position]:.1f}" for name in ("ROUGE-L", "CIDEr"))
    return (("caption", text_of(prediction, "caption") or "nothing"), ("references", references), ("scores", scores))


def _answer_scores(finished: Finished) -> NDArray[np.float64]:
    sure = np.array([1 + float(prediction.get("confidence") or 0) for prediction in finished.predictions])
    return np.where(finished.each("OA") == 100, sure, -sure)


def _answer(finished: Finished, position: int) -> Example:
    row, prediction = finished.rows[position], finished.predictions[position]
    facts = [("question", row.question), ("type", row.kind), ("answer", prediction["answer"] or "none")]
    facts += [("true", row.answer)]
    facts += [(key, str(prediction[key])) for key in ("text", "confidence") if prediction.get(key) not in (None, "")]
    dates = ("before", "after") if len(row.pictures) == 2 else ("",)
    pictures = tuple(shown(date, partial(photo, each)) for date, each in zip(dates, row.pictures, strict=True))
    return Example(f"line {row.number}", tuple(facts), pictures)


def _grounded(finished: Finished, position: int) -> Example:
    row: Grounded = finished.rows[position]
    facts = [("phrase", row.phrase), ("IoU", f"{finished.each('mIoU')[position]:.1f}")]
    if row.mask is None:
        truth, said = finished.shapes[position]
        facts.append(("shapes", f"{len(truth)} true, {len(said)} predicted"))
        picture = shown("", lambda: outlined(row.picture.read(), truth, said))
    else:
        picture = shown("", lambda: compared(row.picture.read(), *_masks(finished, position)))
    return Example(f"line {row.number}", tuple(facts), (picture,))


def _masks(finished: Finished, position: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    truth = np.asarray(read_labels(finished.rows[position].mask) > 0)
    name = text_of(finished.predictions[position], "map")
    return truth, read_map(finished.run.folder, name, truth.shape, 256) > 0


def _mapped(finished: Finished, position: int) -> Example:
    row: Mapped = finished.rows[position]
    task: Any = finished.run.task
    codes, colours = np.array(task.codes), palette(task.names)
    truth = read_labels(row.labels, band=row.band).astype(np.int64)
    name = text_of(finished.predictions[position], "map")
    said = read_map(finished.run.folder, name, truth.shape, len(codes))
    positions = np.where(np.isin(truth, row.ignore), -1, np.searchsorted(codes, truth).clip(max=len(codes) - 1))
    facts = (("right", f"{finished.each('OA')[position]:.1f} % of pixels"),)
    pictures = (
        shown("image", partial(photo, row.picture)),
        shown("true", partial(coloured, positions, colours)),
        shown("predicted", partial(coloured, said, colours)),
    )
    return Example(f"line {row.number}", facts, pictures)


def _class_legend(finished: Finished) -> Legend:
    names = finished.run.task.names  # type: ignore[attr-defined]
    pairs = [(name, _css(colour)) for name, colour in zip(names, palette(names).tolist(), strict=True)]
    ignored = any(row.ignore for row in finished.rows)
    return (*pairs, ("left out", _css(LEFT_OUT))) if ignored else tuple(pairs)


def _changed(finished: Finished, position: int) -> Example:
    row: Changed = finished.rows[position]
    truth, said = _masks(finished, position)
    scores = ", ".join(f"{name} {finished.each(name)[position]:.1f}" for name in ("F1", "IoU"))
    shares = f"{100 * truth.mean():.1f} % true, {100 * said.mean():.1f} % predicted"
    facts = (("phrase", row.phrase), ("scores", scores.replace("nan", "-")), ("changed", shares))
    dates = _date_pictures(row)
    laid = shown("true and predicted", lambda: compared(row.after[-1].read(), truth, said))
    return Example(f"line {row.number}", tuple(fact for fact in facts if fact[1]), (*dates, laid))


def _date_pictures(row: Changed) -> tuple[Shown, ...]:
    pairs = [("before", each) for each in row.before] + [("after", each) for each in row.after]
    return tuple(shown(f"{date}, {each.sensor}" if each.sensor else date, partial(photo, each)) for date, each in pairs)


def _changed_caption(finished: Finished, position: int) -> Example:
    row: Changed = finished.rows[position]
    facts = _caption_facts(finished, position, finished.predictions[position])
    return Example(f"line {row.number}", facts, _date_pictures(row))


def _mask_legend(finished: Finished) -> Legend:
    return (("true only", _css(TRUE)), ("predicted only", _css(SAID)), ("both", _css(BOTH)))


def _shape_legend(finished: Finished) -> Legend:
    if finished.run.task.masks:  # type: ignore[attr-defined]
        return _mask_legend(finished)
    return (("true", _css(TRUE)), ("predicted", _css(SAID)))


def _planned(finished: Finished, position: int) -> Example:
    row, given = finished.rows[position], finished.predictions[position]["plan"]
    facts = (("question", row.question), ("wanted", _plain(row.plan.to_json())), ("given", _plain(given)))
    return Example(f"line {row.number}", facts, ())


def _plain(plan: dict[str, str]) -> str:
    return json.dumps(plan, ensure_ascii=False)


def _plan_scores(finished: Finished) -> NDArray[np.float64]:
    return np.asarray(finished.each("exact") * 4 + finished.each("task") * 2 + finished.each("target"), np.float64)


def _css(colour: tuple[int, ...] | list[int]) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour)


def _by(name: str) -> Callable[[Finished], NDArray[np.float64]]:
    return lambda finished: finished.each(name)


def _worst_ranks(finished: Finished) -> NDArray[np.float64]:
    return np.array([-float(each.max()) for each in finished.ranks[0]])


BY_ROUGE = "by ROUGE-L of the line"
LABELS = _Kind("by nDCG@10 of the query; its first three images are shown", _by("nDCG@10"), _label_query)
PAIRS = _Kind("by the mean of the recalls of a pair, onto the second manifest and back", _by("mR"), _pair)
CHANGE_CAPTIONS = _Kind(BY_ROUGE, _by("ROUGE-L"), _changed_caption)
KINDS = {
    "retrieval": _Kind("by the rank of an image for its worst caption, which is shown", _worst_ranks, _caption_query),
    "scenes": _Kind("right ones by the lead of their label, wrong ones by its lag", _scene_scores, _scene),
    "captions": _Kind(BY_ROUGE, _by("ROUGE-L"), _caption),
    "vqa": _Kind("right answers by confidence, then wrong ones against it", _answer_scores, _answer),
    "grounding": _Kind("by IoU of all that is predicted and all that is there", _by("mIoU"), _grounded, _shape_legend),
    "land-cover": _Kind("by percent of right pixels", _by("OA"), _mapped, _class_legend),
    "change": _Kind("by mean IoU of changed and unchanged pixels", _by("mIoU"), _changed, _mask_legend),
    "plan": _Kind("by whether the plan is equal, then its task, then its target", _plan_scores, _planned),
}
