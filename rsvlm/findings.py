"""Where a phrase holds in a scene: by a spectral rule where one exists, on the encoder's dense map where none does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from rasterio.features import shapes
from scipy import ndimage
from scipy.special import expit, logsumexp
from shapely.geometry import shape

from rsvlm import spectral
from rsvlm.encoder.calibration import calibration_of
from rsvlm.scene import Mask, Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    import shapely
    from numpy.typing import NDArray

    from rsvlm.encoder.calibration import Threshold
    from rsvlm.interfaces import Encoder
    from rsvlm.scene import Scene

_WORDS = tomllib.loads(resources.files("rsvlm").joinpath("vocabulary.toml").read_text("utf-8"))
GROUND: tuple[str, ...] = tuple(_WORDS["ground"])
PLACES: tuple[str, ...] = tuple(_WORDS["places"])
CHANGES: tuple[str, ...] = tuple(_WORDS["changes"])
UNCHANGED: tuple[str, ...] = tuple(_WORDS["unchanged"])
WORLDCOVER = ("tree", "shrubland", "grassland", "cropland", "built", "bare", "vegetation", "snow", "ice", "water",
  "wetland", "mangrove", "moss", "lichen")  # fmt: skip
GROUPS: dict[str, int] = {word: number for number, group in enumerate(_WORDS["groups"]) for word in group}
FINE_PIXEL_M = 6.0  # below this, places are recognised; above, only ground covers
SAME_MEANING = 0.55  # a competitor whose text vector is this close to the phrase is no competitor
TEMPERATURE = 0.02  # cosine difference that multiplies the odds by e
LEARNED_CONFIDENCE = 0.6  # ceiling for what a dense map alone can claim
MISSED_CONFIDENCE = 0.3  # ceiling for "not there" from a dense map
WHOLE = 512  # pixels a side; larger pictures are no single scene, so words for scenes are looked for in their parts
UNKNOWN_CONFIDENCE = 0.15  # ceiling for what a coarse image's vocabulary does not name: too little to state
MAX_REGIONS = 2000
MIN_PIXELS = 4
MIN_SHARE = 0.002  # less of the scene than this is "not there"


@dataclass(frozen=True)
class Finding:
    """Where a phrase holds in a scene, and by what method."""

    phrase: str
    mask: Mask
    share: float  # of the valid pixels, 0 to 1
    how: str
    confidence: float
    score: NDArray[np.float32]  # (H, W), 0 to 1

    @property
    def present(self) -> bool:
        """Whether there is enough of it to say so."""
        return self.share >= MIN_SHARE and int(self.mask.pixels.sum()) >= MIN_PIXELS


def find(phrase: str, scene: Scene, encoder: Encoder) -> Finding:
    """Locate a phrase: by a spectral or radar rule where the concept and bands allow, else on the dense map."""
    concept = spectral.concept_of(phrase)
    rule = spectral.rule_for(concept, scene) if concept else None
    if concept is None or rule is None:
        return _find_learned(phrase, scene, encoder)
    pixels = spectral.apply(rule, scene)
    how = rule.how if spectral.is_exact(phrase, concept) else f"{rule.how}, which finds all {concept}"
    confidence = rule.confidence if spectral.is_exact(phrase, concept) else 0.7 * rule.confidence
    return _finding(phrase, pixels, scene, how, confidence, pixels.astype(np.float32))


def _find_learned(phrase: str, scene: Scene, encoder: Encoder) -> Finding:
    lead = leads([phrase], scene, encoder)[0]
    score = _score(lead)
    denial = _denial(phrase, lead, scene, encoder)
    if denial is not None:
        how = f"{denial.statistic} is at most {denial.value:.3f}, as where it is not there"
        confidence = LEARNED_CONFIDENCE * max(0.0, 2 * denial.trust - 1)
        return _finding(phrase, np.zeros(scene.shape, bool), scene, how, confidence, score)
    pixels = (score > 0.5) & scene.valid
    how = f"encoder map: nearer to {phrase!r} than to {len(_rivals(phrase, scene, encoder))} other descriptions"
    return _finding(phrase, pixels, scene, how, _learned_confidence(phrase, score, pixels, scene), score)


def find_change(phrase: str, before: Scene, after: Scene, encoder: Encoder) -> Finding | None:
    """Where a phrase is what became of a place, on the encoder's map of change; None where that cannot tell.

    It can for phrases near what it was trained on (`CHANGES`), by an encoder that maps change at all. The score is
    the phrase's probability among all changes and the phrases for none, as in training; where the encoder was
    calibrated, with the odds at which as much ground is called changed as is.
    """
    odds = change_odds(phrase, before, after, encoder)
    if odds is None:
        return None
    threshold = calibration_of(encoder).of("change")
    score = enlarge(expit(odds - (threshold.value if threshold else 0.0)), after.shape)
    pixels = (score > 0.5) & after.valid
    how = f"encoder map of change: likelier {phrase!r} than {len(_other_changes(phrase))} other changes or none"
    sure = LEARNED_CONFIDENCE * float(np.abs(2 * score[after.valid] - 1).mean())
    return _finding(phrase, pixels, after, how, sure, score)


def change_odds(phrase: str, before: Scene, after: Scene, encoder: Encoder) -> NDArray[np.float32] | None:
    """Log odds (h, w) of a phrase among all changes and the phrases for none; None as `find_change`."""
    others = _other_changes(phrase)
    if len(others) == len(CHANGES):
        return None
    maps = encoder.change_map(before, after, [phrase, *others, *UNCHANGED])
    if maps is None:
        return None
    logits = maps / TEMPERATURE
    return np.asarray(logits[0] - logsumexp(logits[1:], axis=0), np.float32)


def _other_changes(phrase: str) -> list[str]:
    return [word for word in CHANGES if not share_meaning(word, phrase)]


def _score(lead: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-lead / TEMPERATURE)), np.float32)


def leads(phrases: Sequence[str], scene: Scene, encoder: Encoder) -> NDArray[np.float32]:
    """By how much cosine each of P phrases is nearer than its nearest rival: (P, H, W)."""
    rivals = [_rivals(phrase, scene, encoder) for phrase in phrases]
    texts = list(dict.fromkeys([*phrases, *(word for words in rivals for word in words)]))
    layer = dict(zip(texts, encoder.similarity_map(scene, texts), strict=True))
    pairs = zip(phrases, rivals, strict=True)
    return np.stack(
        [enlarge(layer[own] - np.max([layer[word] for word in words], axis=0), scene.shape) for own, words in pairs]
    )


def peak(lead: NDArray[np.float32], valid: NDArray[np.bool_]) -> float:
    """The lead that 0.2 % of the valid pixels reach, whatever their number; a phrase is found where it is above 0."""
    return float(np.quantile(lead[valid], 1 - MIN_SHARE))


def kind_of(phrase: str, scene: Scene) -> str:
    """Which threshold speaks for a phrase in a scene: "scene", "object", "ground" or, for none, "".

    On coarse pictures those of ground covers and WorldCover's classes, and none for what coarse pixels cannot show.
    On fine ones those of scenes for the words of `PLACES`, where the picture is no larger than one scene, and those
    of objects for all else. No threshold is asked about pictures of a kind it was not fitted on.
    """
    if vocabulary(scene) is GROUND:
        meant = _meanings(phrase)
        return "ground" if any(meant & _meanings(word) for word in (*GROUND, *WORLDCOVER)) else ""
    return "scene" if max(scene.shape) <= WHOLE and frozenset(_stems(phrase)) in SITES else "object"


def _denial(phrase: str, lead: NDArray[np.float32], scene: Scene, encoder: Encoder) -> Threshold | None:
    """The threshold by which a phrase is not there; None where it may be, or nothing was calibrated."""
    kind = kind_of(phrase, scene)
    threshold = calibration_of(encoder).of(kind)
    if threshold is None:
        return None
    whole = kind == "scene"
    statistic = likeness(phrase, scene, encoder) if whole else peak(lead, scene.valid)
    return threshold if threshold.denies(statistic) else None


def likeness(phrase: str, scene: Scene, encoder: Encoder) -> float:
    """Cosine of the whole picture and a phrase."""
    return float(encoder.encode_texts([phrase])[0] @ encoder.encode_scenes([scene])[0])


def _learned_confidence(phrase: str, score: NDArray[np.float32], pixels: NDArray[np.bool_], scene: Scene) -> float:
    """How far a dense map is to be believed: less for a miss, hardly at all for things coarse pixels cannot show."""
    if vocabulary(scene) is GROUND and not any(_meanings(word) & _meanings(phrase) for word in GROUND):
        return UNKNOWN_CONFIDENCE
    if pixels.any():
        return LEARNED_CONFIDENCE * float((2 * score[pixels] - 1).mean())
    likeliest = float(np.quantile(score[scene.valid], 0.999))
    return MISSED_CONFIDENCE * max(0.0, 1 - 2 * likeliest)


def _rivals(phrase: str, scene: Scene, encoder: Encoder) -> list[str]:
    meant = _meanings(phrase)
    words = [word for word in vocabulary(scene) if not _meanings(word) & meant]
    vectors = encoder.encode_texts([phrase, *words])
    close = vectors[1:] @ vectors[0]
    return [word for word, cosine in zip(words, close, strict=True) if cosine < SAME_MEANING]


def share_meaning(one: str, other: str) -> bool:
    """Whether two texts have a word, or two near synonyms, in common."""
    return not _meanings(one).isdisjoint(_meanings(other))


def _meanings(text: str) -> set[str | int]:
    """The words of a text without endings, each replaced by its group of near synonyms where it has one."""
    return {GROUPS.get(stem, stem) for stem in _stems(text)}


def _stems(text: str) -> set[str]:
    small = {"a", "an", "and", "the", "of", "on", "with", "over", "full", "area", "land"}
    words = [word for word in re.findall(r"[a-z]+", text.lower()) if word not in small]
    return {word if word in GROUPS else word.removesuffix("s") for word in words}


SITES = frozenset(frozenset(_stems(re.split(r" with | over | full | on ", place)[0])) for place in PLACES)


def vocabulary(scene: Scene) -> tuple[str, ...]:
    """Descriptions that fit the scene's resolution: places on fine pictures, ground covers on coarse ones."""
    size = scene.grid.pixel_size_m
    fine = size < FINE_PIXEL_M if size is not None else scene.sensor.units == "display" and scene.sensor.kind != "sar"
    return PLACES if fine else GROUND


def enlarge(field: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring an (h, w) map to (H, W) by linear interpolation between cell centres."""
    rows = (np.arange(size[0]) + 0.5) * field.shape[0] / size[0] - 0.5
    cols = (np.arange(size[1]) + 0.5) * field.shape[1] / size[1] - 0.5
    grid = np.meshgrid(rows, cols, indexing="ij")
    return np.asarray(ndimage.map_coordinates(field, grid, order=1, mode="nearest"), dtype=np.float32)


def cover_map(scene: Scene, names: Sequence[str], encoder: Encoder) -> NDArray[np.int64]:
    """Position (H, W) of the nearest of these class names for every pixel, valid or not."""
    maps = encoder.similarity_map(scene, names)
    nearest: NDArray[np.int64] = np.stack([enlarge(layer, scene.shape) for layer in maps]).argmax(axis=0)
    return nearest


def _finding(
    phrase: str, pixels: NDArray[np.bool_], scene: Scene, how: str, confidence: float, score: NDArray[np.float32]
) -> Finding:
    share = float(pixels.sum() / scene.valid.sum())
    return Finding(phrase, Mask(phrase, pixels, scene.grid), share, how, confidence, score)


def regions_of(finding: Finding, scene_id: str) -> tuple[Region, ...]:
    """Connected parts of a finding as outlines, largest first, at most 2,000; specks under 4 pixels are left out."""
    found = []
    pixels = finding.mask.pixels
    for outline, _ in shapes(pixels.astype(np.uint8), mask=pixels, connectivity=8):
        polygon = shape(outline).buffer(0)
        if polygon.area >= MIN_PIXELS:
            found.append(polygon)
    found.sort(key=lambda polygon: (-polygon.area, polygon.bounds))
    return tuple(
        Region(finding.phrase, _mean_score(finding, polygon), polygon, scene_id, finding.mask.grid)
        for polygon in found[:MAX_REGIONS]
    )


def count_parts(finding: Finding) -> int:
    """How many connected parts of 4 pixels or more a finding has."""
    labels, _ = ndimage.label(finding.mask.pixels, np.ones((3, 3)))
    return int((np.bincount(labels.ravel())[1:] >= MIN_PIXELS).sum())


def _mean_score(finding: Finding, polygon: shapely.Polygon) -> float:
    """Mean score inside the part's box, where the mask holds, times the confidence in the method."""
    x0, y0, x1, y1 = (int(v) for v in polygon.bounds)
    inside = finding.mask.pixels[y0:y1, x0:x1]
    return float(finding.score[y0:y1, x0:x1][inside].mean()) * finding.confidence


def enlarge_mask(valid: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which cells of an (h, w) map lie on mostly valid pixels; all of them where none does."""
    rows = np.minimum((np.arange(size[0]) + 0.5) * valid.shape[0] / size[0], valid.shape[0] - 1).astype(int)
    cols = np.minimum((np.arange(size[1]) + 0.5) * valid.shape[1] / size[1], valid.shape[1] - 1).astype(int)
    cells: NDArray[np.bool_] = valid[np.ix_(rows, cols)]
    return cells if cells.any() else np.ones_like(cells)
