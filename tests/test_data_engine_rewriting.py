"""The rewriting pass keeps a sentence only where nothing that counts was changed."""

import pytest

from data_engine.recipes.rewriting import ChatRewriter, Rewriting, fault
from data_engine.recipes.wording import make
from data_engine.sample import Origin, Sample

BEFORE = "Water covers 12.5 ha, 3.1 percent of the scene."


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("Of the scene, 3.1 percent is water: 12.5 ha.", ""),
        ("", "empty or the same"),
        (BEFORE, "empty or the same"),
        ("Water covers 12.6 ha, 3.1 percent of the scene.", "numbers"),
        ("Water covers 12.5 ha of the scene.", "numbers"),
        ("Three lots: water covers 12.5 ha, 3.1 percent.", "numbers"),
        ("Forest covers 12.5 ha, 3.1 percent of the scene.", "names"),
        ("Water does not cover 12.5 ha, 3.1 percent of the scene.", "negation"),
        ("<b>Water</b> takes up 12.5 ha, 3.1 percent.", "markup"),
        ("Water, as everyone can see, spreads over 12.5 ha, 3.1 percent. " + "It is very wet indeed. " * 5, "longer"),
    ],
)
def test_a_rewriting_is_refused_for_what_it_changes(after, why):
    assert fault(BEFORE, after) == why


def test_citations_count_as_numbers():
    assert fault("See [1] and [2].", "Look at [2] and [1].") == ""
    assert fault("See [1] and [2].", "Look at [1] and [3].") == "numbers"


class Swapping:
    """Turns "A, B." into "B: A." and loses the number of every third sentence."""

    def __init__(self):
        self.asked = 0

    def rewrite(self, texts):
        self.asked += len(texts)
        lost = self.asked % 3 == 0
        return [f"So it is: {text}".replace("percent", "") if lost else f"So it is: {text}" for text in texts]


def test_every_sample_stays_and_counts_add_up():
    samples = list(make(seed=0, count=120))
    rewriting = Rewriting(Swapping(), 0.5, 0)
    found = list(rewriting.extend(samples))
    assert [sample for sample in found if "+rewriting" not in sample.origin.recipe] == samples
    assert len(found) == len(samples) + rewriting.counts["kept"]
    assert 30 < sum(rewriting.counts.values()) < 90
    assert list(Rewriting(Swapping(), 0.5, 0).extend(samples)) == found


def test_what_people_wrote_is_left_alone():
    own = Sample("caption", "a lake", Origin("rsicd", "p", "train", "captions/own@1", 0))
    question = Sample("question", "Is there a lake?", Origin("rsicd", "p", "train", "questions/presence@1", 0))
    rewriting = Rewriting(Swapping(), 1.0, 0)
    assert list(rewriting.extend([own, question])) == [own, question]
    assert not rewriting.counts


@pytest.mark.slow
def test_the_real_base_model_rewrites_and_is_checked():
    rewriting = Rewriting(ChatRewriter.from_pretrained(), 1.0, 0)
    samples = list(make(seed=0, count=8))
    found = list(rewriting.extend(samples))
    assert sum(rewriting.counts.values()) == 8
    assert len(found) == 8 + rewriting.counts["kept"]
