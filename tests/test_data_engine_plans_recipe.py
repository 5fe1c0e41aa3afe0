"""Generated questions become valid plans out of their own words, differ, and are none of those kept for measuring."""

import json
import re
from collections import Counter
from pathlib import Path

import llguidance
import llguidance.hf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data_engine.recipes import plans
from data_engine.recipes.plans import About, Noun, ask, digest, drawn, forms, make, normalised, noun, sayable
from data_engine.recipes.words import chance_of
from data_engine.sample import Sample
from rsvlm.errors import DatasetError
from rsvlm.language.grammar import plan_grammar
from rsvlm.language.phrases import Reading, singular
from rsvlm.language.plan import METADATA, RELATIONS, TASKS, UNITS, Plan

KEPT = [
    json.loads(line)["question"]
    for line in (Path(__file__).parent / "data/plans.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def made():
    return list(make(seed=3, count=3000))


def every_letter():
    """A tokenizer of single bytes, so that the real grammar can be asked without a model."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: position for position, letter in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def test_every_plan_survives_a_trip_through_json(made):
    for sample in made:
        assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample
        assert sample.plan == Plan.from_json(sample.plan.to_json())
        assert (sample.kind, sample.type, sample.images) == ("plan", sample.plan.task, ())


def test_the_same_seed_makes_the_same_questions_and_another_seed_others(made):
    assert list(make(seed=3, count=40)) == made[:40]
    others = {sample.text for sample in make(seed=4, count=40)}
    assert len(others & {sample.text for sample in made[:40]}) < 5


def test_no_two_questions_are_alike_even_without_case_and_punctuation(made):
    assert len({normalised(sample.text) for sample in made}) == len(made)


@pytest.mark.slow
def test_twenty_thousand_different_questions_come_out():
    made = [normalised(sample.text) for sample in make(seed=0, count=20_000)]
    assert len(set(made)) == 20_000
    assert not {*made} & {normalised(question) for question in KEPT}


def test_no_question_kept_for_measuring_is_made(made):
    assert {digest(question) for question in KEPT} <= plans.held_out()
    assert not {normalised(sample.text) for sample in made} & {normalised(question) for question in KEPT}


def test_a_held_out_question_is_worded_otherwise_though_a_pattern_gives_it():
    kept = "Where is the golf course?"
    assert kept in KEPT
    texts = {ask(forms()["locate"], About(Noun("golf course")), chance_of(0, n)).text for n in range(300)}
    assert "Where exactly is the golf course?" in texts
    assert kept not in texts


def test_all_tasks_relations_units_and_file_facts_occur(made):
    found = [sample.plan for sample in made]
    assert {plan.task for plan in found} == set(TASKS)
    assert {plan.relation for plan in found} == set(RELATIONS)
    assert {plan.unit for plan in found} == set(UNITS) - {"count"}  # no question names it: it is what is counted
    assert {plan.target for plan in found if plan.task == "metadata"} == set(METADATA)


def test_six_to_eleven_percent_cannot_be_answered(made):
    assert 0.06 <= sum(sample.plan.task == "abstain" for sample in made) / len(made) <= 0.11


def test_phrases_are_words_of_the_question(made):
    for sample in made:
        if sample.plan.task == "metadata":
            continue
        phrases = {phrase.lower() for phrase in Reading(sample.text).phrases(sample.plan.task)}
        assert {sample.plan.target.lower(), sample.plan.other.lower()} - {""} <= phrases, sample
    whole = [sample for sample in made if sample.plan.target and sample.plan.task != "metadata"]
    copied = [sample for sample in whole if sample.plan.target.lower() in sample.text.lower()]
    assert len(copied) > 0.9 * len(whole)  # the rest are plurals like "bodies", singular in the plan


def test_the_real_grammar_writes_every_plan(made):
    tokenizer = every_letter()
    tokens = llguidance.hf.from_tokenizer(tokenizer)
    for sample in made[:250]:
        plan = json.dumps(sample.plan.to_json(), separators=(",", ":"), ensure_ascii=False)
        grammar = plan_grammar(Reading(sample.text), (sample.plan.task,))
        if sample.plan.task == "abstain":
            continue  # the decoder offers it always
        matcher = llguidance.LLMatcher(tokens, llguidance.grammar_from("lark", grammar))
        spelled = tokenizer.encode(plan, add_special_tokens=False)
        assert matcher.try_consume_tokens(spelled) == len(spelled), (sample.text, plan)
        assert matcher.is_accepting(), (sample.text, plan)


@pytest.mark.parametrize("name", sorted(forms()))
def test_at_least_twenty_patterns_of_a_form_are_used(name):
    used = Counter()
    for number in range(12 * len(forms()[name].patterns)):
        question = drawn(name, chance_of(7, name, number))
        if question is not None:
            used[question.pattern] += 1
    assert len(used) >= 20
    assert len(used) >= 0.97 * len(forms()[name].patterns)  # nearly every pattern can be read back
    assert max(used.values()) < 0.2 * used.total()


def test_patterns_and_words_are_each_there_once():
    for name, form in forms().items():
        assert len(set(form.patterns)) == len(form.patterns), name
        assert not [pattern for pattern in form.patterns if "\N{EM DASH}" in pattern]
    vocabulary = plans.table()["vocabulary"]
    assert len({*vocabulary["things"], *vocabulary["stuff"]}) == len(vocabulary["things"]) + len(vocabulary["stuff"])
    assert len(vocabulary["things"]) + len(vocabulary["stuff"]) >= 300


def test_every_word_of_the_vocabulary_can_be_asked_about():
    vocabulary = plans.table()["vocabulary"]
    for counted, kind in ((True, "things"), (False, "stuff")):
        for word in vocabulary[kind]:
            each = Noun(word, counted)
            assert sayable(f"Is there {each.article}?", Plan("presence", word)), word
            assert singular(each.many) == word, word


def test_some_questions_are_casual_and_some_have_a_preamble(made):
    texts = [sample.text for sample in made]
    assert 0.05 < sum(text == text.lower() for text in texts) / len(texts) < 0.4
    assert 0.1 < sum(text[-1] not in "?.!" for text in texts) / len(texts) < 0.3
    assert any("client. " in text for text in texts)
    assert any("pls" in text.lower() or "what's" in text.lower() for text in texts)


def test_a_noun_knows_its_number():
    assert noun("trees") == Noun("tree", counted=True)
    assert noun("built-up area") == Noun("built-up area", counted=True)
    assert noun("farmland") == Noun("farmland", counted=False)
    assert (noun("ship").many, noun("ship").article, noun("island").article) == ("ships", "a ship", "an island")
    assert (noun("water").many, noun("water").article) == ("water", "water")


@pytest.mark.parametrize(
    ("question", "plan", "allowed"),
    [
        ("Is there a ship?", Plan("presence", "ship"), True),
        ("Is there a ship left of the pier?", Plan("presence", "ship", "left", "pier"), True),
        ("Is there a ship left of the pier?", Plan("presence", "ship"), False),  # the relation is named
        ("Is there a ship left of the pier?", Plan("presence", "pier", "left", "ship"), False),  # in the other order
        ("Is there a ship?", Plan("presence", "boat"), False),
        ("How many hectares of forest are there?", Plan("area", "forest", unit="ha"), True),
        ("How many hectares of forest are there?", Plan("area", "forest"), False),
        ("How much forest was lost?", Plan("change", "forest"), False),
        ("How deep is the lake?", Plan("area", "lake"), False),
        ("How deep is the lake?", Plan("abstain"), True),
        ("Find images of ships.", Plan("search", "ship"), True),
        ("When was this taken?", Plan("metadata", "date"), True),
        ("When was this taken?", Plan("metadata", "sensor"), False),
    ],
)
def test_what_the_grammar_allows_is_known(question, plan, allowed):
    assert sayable(question, plan) is allowed


def test_what_no_pattern_can_say_is_refused():
    with pytest.raises(DatasetError, match="no pattern of presence can ask about"):
        ask(forms()["presence"], About(Noun("sand or gravel")), chance_of(0))


def test_a_tenth_is_kept_for_validation_and_no_adjective_stands_twice():
    made = list(make(seed=3, count=2000))
    assert 140 < sum(sample.origin.split == "val" for sample in made) < 260
    assert not [s.text for s in made if re.search(r"\b(\w{4,}) \1\b", s.text)]
