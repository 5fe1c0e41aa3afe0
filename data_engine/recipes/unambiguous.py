"""What single things of an image can be meant by: class, size, place, order and relation, where nothing else fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from data_engine.recipes import words
from data_engine.sources.coco import ring_area

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from data_engine.annotated import Box, Ring

CLEARLY = 1.3  # times as large, by outline; boxes of slanted objects say less about size
CLEARLY_BY_BOX = 2.0
APART = 0.03  # of the image's side: centres closer than this have no clear order, nor a clear side of a cell line
SIDES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, direction to count in
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis, direction
ORDINALS = ("first", "second", "third", "fourth", "fifth")
CELLS = tuple(words.cell_words((column + 0.5) / 3, (row + 0.5) / 3) for row in range(3) for column in range(3))


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a class, or one connected part of a class map (`ground`)."""

    category: str
    box: Box
    ring: Ring = ()
    ground: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Everything expressions of one image can mean.

    `things` are complete for the categories they have; `absent` are categories known not to be there; `masks` are
    the pixels of all of a category. `ground` are the categories of the class map, `whole` those that lie in one part.
    """

    size: tuple[int, int]  # width, height in pixels
    things: tuple[Thing, ...]
    absent: tuple[str, ...] = ()
    ground: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    masks: tuple[tuple[str, Path], ...] = ()

    def of(self, category: str) -> list[int]:
        """Positions of a category's things."""
        return [i for i, thing in enumerate(self.things) if thing.category == category]

    def countable(self) -> list[str]:
        """Categories of single objects, sorted."""
        return sorted({thing.category for thing in self.things if not thing.ground})

    def known(self) -> set[str]:
        """Every category the image was searched for."""
        return {thing.category for thing in self.things} | {*self.absent} | {category for category, _ in self.masks}


@dataclass(frozen=True, slots=True)
class Expression:
    """What an expression says, apart from its wording, and which things of the view it means.

    detail    attribute "largest"; position a cell; relation "left of"; ordinal "second"; implicit a row of the uses
    other     relation the category it is related to; ordinal the side that is counted from
    form      the kind of wording, where `kind` is "absent"
    """

    kind: str
    category: str
    meant: tuple[int, ...]
    detail: str = ""
    other: str = ""
    form: str = ""


def expressions(view: View, uses: tuple[str, ...] = ()) -> Iterator[Expression]:
    """Every expression that means certain things of the view and no others, or certainly nothing.

    A row of `uses` is "who | what they could do | class | another name of the class ...".
    """
    known = view.known()
    for category in view.countable():
        meant = view.of(category)
        yield Expression("class", category, tuple(meant))
        if not is_plural(category):
            yield from _by_size(view, category, meant)
            yield from _by_place(view, category, meant)
            yield from _by_order(view, category, meant)
            yield from _by_relation(view, category, meant)
    yield from (Expression("class", category, ()) for category, _ in view.masks if not view.of(category))
    for position, thing in enumerate(view.things):
        if thing.ground:
            yield Expression("class" if thing.category in view.whole else "attribute", thing.category, (position,))
    for category in view.absent:
        yield from _nowhere(view, category)
    for row in uses:
        classes = [name for name in row.split(" | ")[2:] if name in known]
        if len(classes) == 1:
            yield from _by_use(view, classes[0], row)


def is_plural(name: str) -> bool:
    """Whether a name means several things already, by its ending: "houses", not "grass"."""
    return name.endswith("s") and not name.endswith(("ss", "us", "is"))


def _nowhere(view: View, category: str) -> Iterator[Expression]:
    """The kinds of wording that can ask for a category that is not there."""
    if category in view.ground:
        forms: tuple[str, ...] = ("ground", "ground_largest")
    else:
        forms = ("class",) if is_plural(category) else ("class", "class_one", "attribute", "position")
    for form in forms:
        detail = {"attribute": "largest", "position": "centre"}.get(form, "")
        yield Expression("absent", category, (), detail, form=form)


def cell_of(box: Box, size: tuple[int, int]) -> str:
    """The cell of a 3 x 3 grid that a box's centre lies in; "" where it lies on a line between cells."""
    x, y = _centre(box)[0] / size[0], _centre(box)[1] / size[1]
    clear = all(abs(at - line / 3) >= APART for at in (x, y) for line in (1, 2))
    return words.cell_words(x, y) if clear and 0 <= x <= 1 and 0 <= y <= 1 else ""


def _by_size(view: View, category: str, meant: list[int]) -> Iterator[Expression]:
    things = [view.things[i] for i in meant]
    outlined = all(thing.ring for thing in things)
    areas = [ring_area(thing.ring) if outlined else _box_area(thing.box) for thing in things]
    order = sorted(range(len(areas)), key=areas.__getitem__)
    clearly = CLEARLY if outlined else CLEARLY_BY_BOX
    if len(order) < 2:
        return
    small, next_small, next_large, large = order[0], order[1], order[-2], order[-1]
    if areas[large] >= clearly * areas[next_large]:
        yield Expression("attribute", category, (meant[large],), "largest")
    if clearly * areas[small] <= areas[next_small] and not _cut_off(things[small].box, view.size):
        yield Expression("attribute", category, (meant[small],), "smallest")


def _by_place(view: View, category: str, meant: list[int]) -> Iterator[Expression]:
    """A thing alone in its cell, and cells that no thing of a class that is there reaches into."""
    cells = [cell_of(view.things[i].box, view.size) for i in meant]
    for cell in CELLS:
        inside = [i for i, other in zip(meant, cells, strict=True) if other == cell]
        reaching = [i for i in meant if _reaches(view.things[i].box, cell, view.size)]
        centred = [i for i in reaching if i in inside or _near(view.things[i].box, cell, view.size)]
        if len(inside) == 1 and centred == inside:
            yield Expression("position", category, tuple(inside), cell)
        elif not reaching:
            yield Expression("absent", category, (), cell, form="position")


def _by_order(view: View, category: str, meant: list[int]) -> Iterator[Expression]:
    for side, (axis, direction) in SIDES.items():
        at = {i: direction * _centre(view.things[i].box)[axis] for i in meant}
        order = sorted(meant, key=at.__getitem__)
        gaps = [at[b] - at[a] for a, b in pairwise(order)]
        clear = [gap >= APART * view.size[axis] for gap in gaps]
        for rank, i in enumerate(order[: len(ORDINALS)]):
            if len(order) > 1 and all(clear[: rank + 1]):
                yield Expression("ordinal", category, (i,), ORDINALS[rank], side)


def _by_relation(view: View, category: str, meant: list[int]) -> Iterator[Expression]:
    """Beside the only thing of another class: the one that is clearly on that side, if no other could be said to be."""
    for other in view.countable():
        anchors = view.of(other)
        if other == category or len(anchors) != 1 or is_plural(other):
            continue
        anchor = view.things[anchors[0]].box
        for relation, (axis, direction) in RELATIONS.items():
            towards = [i for i in meant if direction * _offset(view.things[i].box, anchor)[axis] > 0]
            if len(towards) == 1 and _clearly_beside(view.things[towards[0]].box, anchor, axis, direction):
                yield Expression("relation", category, tuple(towards), relation, other)
        gaps = sorted((_gap(view.things[i].box, anchor), i) for i in meant)
        if len(gaps) > 1 and gaps[1][0] >= 1.5 * gaps[0][0] + 0.05 * math.hypot(*view.size):
            yield Expression("relation", category, (gaps[0][1],), "nearest", other)


def _by_use(view: View, category: str, row: str) -> Iterator[Expression]:
    meant = view.of(category)
    if category in view.absent:
        yield Expression("absent", category, (), row, form="implicit")
    elif category not in view.ground or category in view.whole:
        yield Expression("implicit", category, tuple(meant), row)


def _clearly_beside(box: Box, anchor: Box, axis: int, direction: int) -> bool:
    apart = box[axis + 2] <= anchor[axis] if direction < 0 else box[axis] >= anchor[axis + 2]
    offset = _offset(box, anchor)
    return apart and abs(offset[axis]) >= abs(offset[1 - axis])


def _offset(box: Box, anchor: Box) -> tuple[float, float]:
    return _centre(box)[0] - _centre(anchor)[0], _centre(box)[1] - _centre(anchor)[1]


def _gap(box: Box, other: Box) -> float:
    """Pixels between two boxes, 0 where they touch."""
    return math.hypot(*(max(box[k] - other[k + 2], other[k] - box[k + 2], 0) for k in (0, 1)))


def _limits(cell: str, size: tuple[int, int]) -> Box:
    row, column = ("middle", "centre") if cell == "centre" else cell.split()
    x, y = words.COLUMNS.index(column) / 3, words.ROWS.index(row) / 3
    return x * size[0], y * size[1], (x + 1 / 3) * size[0], (y + 1 / 3) * size[1]


def _reaches(box: Box, cell: str, size: tuple[int, int]) -> bool:
    """Whether any of a box lies in the cell or so close that it could be said to."""
    limits = _limits(cell, size)
    return all(box[k] < limits[k + 2] + APART * size[k] and box[k + 2] > limits[k] - APART * size[k] for k in (0, 1))


def _near(box: Box, cell: str, size: tuple[int, int]) -> bool:
    """The same of its centre."""
    return _reaches(_centre(box) * 2, cell, size)


def _cut_off(box: Box, size: tuple[int, int]) -> bool:
    return min(box[:2]) <= 1 or box[2] >= size[0] - 1 or box[3] >= size[1] - 1


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def bounds(ring: Ring) -> Box:
    """The upright box around a ring."""
    xs, ys = zip(*ring, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
