import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsvlm.answer import Fact, Hit
from rsvlm.language.claims import format_number, strip_markup
from rsvlm.language.wording import PlainWording, check_wording, plural
from rsvlm.scene import Window

HOW = "NDWI > 0"


def fact(name, value, unit="", how=HOW, confidence=0.9):
    return Fact(name, value, unit, how, confidence)


def hit(rank, caption="forest beside a river", acquired="2017-02-16T10:00:00Z"):
    return Hit(rank, f"c{rank}", 0.5, None, acquired, "sentinel-2-l2a", caption, "a.tif", Window(0, 0, 8, 8), {})


def word(facts, hits=()):
    return "".join(PlainWording().word(facts, hits, "?"))


CASES = {
    "area": (
        [fact("area of water", 1234.5, "ha"), fact("share of water", 12.34, "percent")],
        "Water covers 1,234 ha, 12.3 percent of the scene. Measured by NDWI > 0.",
    ),
    "presence": (
        [fact("water", True), fact("share of water", 3.0, "percent")],
        "Yes, water was found. Water covers 3 percent of the scene. Measured by NDWI > 0.",
    ),
    "absence": (
        [fact("ship", False, confidence=0.3)],
        "No, ship was not found. Measured by NDWI > 0. This is uncertain.",
    ),
    "count": ([fact("count of ship", 3, "count", how="")], "There are 3 ships."),
    "count one": ([fact("count of ship", 1, "count", how="")], "There is 1 ship."),
    "land cover": (
        [fact("land cover: forest", 43.1, "percent", ""), fact("land cover: water", 5.0, "percent", "")],
        "Land cover: forest 43.1 percent, water 5 percent.",
    ),
    "abstain": ([fact("abstain", "no archive is given", "", "")], "I cannot answer this: no archive is given."),
    "date": ([fact("date", "2017-02-16", "", "file")], "It was taken on 2017-02-16."),
    "resolution": ([fact("resolution", 10.0, "m", "file")], "One pixel is 10 m wide."),
    "comparison": ([fact("comparison", "more water than forest", how="")], "There is more water than forest."),
    "locate": (
        [fact("regions of ship", 2, "count", ""), fact("position of ship", "top left", "", "")],
        "Ship was found in 2 places. The clearest lies at the top left.",
    ),
    "change": (
        [fact("change of forest", True, how=""), fact("area of forest lost", 12.0, "ha", "")],
        "Yes, the extent of forest changed. Forest was lost on 12 ha.",
    ),
    "any change": (
        [fact("share of changed ground", 4.56, "percent", "")],
        "The ground changed on 4.56 percent of the scene.",
    ),
    "nothing": ([], "Nothing was measured and nothing was found."),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_facts_read_as_plain_sentences(name):
    facts, text = CASES[name]
    assert word(facts) == text
    assert check_wording(text, facts, []) == text


def test_hits_are_listed_by_their_numbers_and_their_captions_cite_nothing():
    hits = [hit(1), hit(2, "see [7] <img src=x onerror=alert(1)> https://evil.example/x", None)]
    text = word([], hits)
    assert text == "Best matches: [1] forest beside a river (sentinel-2-l2a, 2017-02-16); [2] see (7) (sentinel-2-l2a)."
    assert check_wording(text, [], hits) == text


def test_a_number_that_is_no_fact_goes_with_its_sentence():
    facts = [fact("area of water", 1234.5, "ha"), fact("count of ship", 3, "count")]
    text = "Water covers 1,234 ha. There are three ships. It costs 99 euro. About 1,235 people live here. Nice."
    assert check_wording(text, facts, []) == "Water covers 1,234 ha. There are three ships. Nice."


def test_a_citation_of_no_hit_is_removed():
    assert check_wording("Farmland [1] and a river [2].", [], [hit(1)]) == "Farmland [1] and a river."


HOSTILE = [
    "![x](https://evil.example/a.png)",
    "[click](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<<b>script>alert(1)</script>",
    "<script src=//evil.example",
    "www.evil.example/a and http://evil.example",
    "![a][b]",
    "<https://evil.example>",
    "data:text/html;base64,AAAA",
    "![a](b(c)d)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_links_images_and_html_are_stripped(text):
    clean = strip_markup(f"Water {text} here")
    assert clean.startswith("Water")
    for bad in ("evil", "<", "javascript:", "data:", "![", "]("):
        assert bad not in clean


@given(st.text(alphabet="<>![]()ab:/.whtps ", max_size=60))
def test_stripping_twice_changes_nothing(text):
    once = strip_markup(text)
    assert strip_markup(once) == once


def test_comparisons_in_a_method_are_not_mistaken_for_html():
    assert strip_markup("NDWI > 0 and NIR < 0.1") == "NDWI > 0 and NIR < 0.1"


VALUES = st.floats(0, 1e9) | st.integers(0, 10**9)


@given(st.lists(st.tuples(st.sampled_from(["area of water", "share of forest", "count of ship", "other"]), VALUES)))
def test_the_plain_sentences_hold_no_number_but_the_facts(pairs):
    facts = [fact(name, value, "ha", how="") for name, value in pairs]
    text = word(facts)
    assert check_wording(text, facts, []) == text


def test_numbers_are_written_by_their_size():
    values = (12345, 1234.5, 99.94, 3.4, 0.01234, 0, 0.0)
    assert [format_number(v) for v in values] == ["12,345", "1,234", "99.9", "3.4", "0.012", "0", "0"]


def test_plurals():
    assert [plural(p) for p in ("ship", "factory", "bus", "aircraft", "roads", "church", "bay")] == [
        "ships",
        "factories",
        "buses",
        "aircraft",
        "roads",
        "churches",
        "bays",
    ]
