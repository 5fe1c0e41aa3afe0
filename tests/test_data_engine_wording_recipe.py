"""Facts-to-sentence pairs say what their facts say, in many forms."""

from collections import defaultdict

import pytest

from data_engine.recipes.wording import PATTERNS, SITUATIONS, make
from data_engine.sample import Sample
from rsvlm.answer import Fact, Hit
from rsvlm.language.claims import check_wording
from rsvlm.scene import Window


@pytest.fixture(scope="module")
def samples():
    return list(make(seed=0, count=4200))


def facts_of(sample):
    return [Fact(f["name"], f["value"], f["unit"], f["how"], f["confidence"]) for f in sample.facts]


def hits_of(sample):
    nowhere = {"footprint": None, "path": "", "window": Window(0, 0, 1, 1), "metadata": {}}
    return [Hit(**{**hit, **nowhere}) for hit in sample.hits]


def test_every_sentence_passes_the_checker_unchanged(samples):
    for sample in samples:
        assert check_wording(sample.answer, facts_of(sample), hits_of(sample)) == sample.answer


def test_a_number_that_is_no_fact_would_be_caught(samples):
    sample = next(s for s in samples if s.type == "share")
    assert check_wording(f"{sample.answer} It is 77777 wide.", facts_of(sample), ()) == sample.answer


def test_every_situation_is_as_frequent_as_the_others_and_uses_twenty_patterns(samples):
    answers = defaultdict(set)
    for sample in samples:
        answers[sample.type].add(sample.answer)
    assert set(answers) == set(SITUATIONS)
    assert all(abs(sum(s.type == kind for s in samples) - 300) < 40 for kind in SITUATIONS)
    assert all(len(PATTERNS[kind]) >= 20 for kind in (*SITUATIONS, "unsure"))
    for kind, patterns in PATTERNS.items():
        if kind in SITUATIONS:
            assert len({p[:12] for p in patterns}) > 10, kind
    assert len({sample.answer for sample in samples}) > 0.9 * len(samples)


def test_what_is_unsure_is_said_to_be(samples):
    for sample in samples:
        unsure = any(fact["confidence"] < 0.5 for fact in sample.facts)
        assert unsure == any(sample.answer.endswith(hedge) for hedge in PATTERNS["unsure"])


def test_abstentions_give_their_reason_and_citations_name_hits(samples):
    for sample in samples:
        if sample.type == "abstain":
            assert sample.facts[0]["value"] in sample.answer
        if sample.type == "evidence":
            assert "[1]" in sample.answer
            assert sample.hits[0]["caption"].lower() in sample.answer.lower()


def test_verdicts_agree_with_the_shares(samples):
    for sample in samples:
        if sample.type == "comparison":
            verdict, one, two = sample.facts
            assert verdict["value"].startswith("more") == (one["value"] > two["value"])
            assert verdict["value"] in sample.answer


def test_the_same_seed_gives_the_same_samples_and_another_others(samples):
    assert list(make(seed=0, count=50)) == samples[:50]
    assert list(make(seed=1, count=50)) != samples[:50]
    assert [Sample.from_json(sample.to_json()) for sample in samples[:50]] == samples[:50]


def test_an_index_measures_only_what_it_is_for_and_reasons_fit_their_questions(samples):
    fits = {line[0]: set(line[1:]) for line in PATTERNS["rules"]}
    asked = {line[0]: set(line[1:]) for line in PATTERNS["reasons"]}
    for sample in samples:
        if sample.type == "abstain":
            assert sample.text in asked[sample.facts[0]["value"]]
        for fact in sample.facts:
            if fact["how"] in fits:
                thing = fact["name"].removesuffix(" gained").removesuffix(" lost")
                assert thing.endswith(tuple(fits[fact["how"]])), fact


def test_every_situation_is_asked_for_in_several_ways(samples):
    questions = defaultdict(set)
    for sample in samples:
        questions[sample.type].add(sample.text)
    assert min(len(each) for each in questions.values()) >= 9


def test_yes_and_no_answer_only_questions_of_yes_or_no(samples):
    open_words = ("what", "how", "which", "where", "compare", "give", "describe", "show", "who", "when")
    for sample in samples:
        if sample.answer.startswith(("Yes", "No,", "No:", "Not ")):
            assert sample.type in ("present", "absent", "unchanged")
            assert not sample.text.lower().startswith(open_words), sample.text
