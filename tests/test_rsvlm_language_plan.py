import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rsvlm.errors import ModelNotFoundError, QueryError, WeightsError
from rsvlm.language.adapter import load_adapter
from rsvlm.language.base import resolve
from rsvlm.language.decoding import GrammarDecoder
from rsvlm.language.examples import ExampleBank, read_examples
from rsvlm.language.grammar import plan_grammar, possible_tasks
from rsvlm.language.model import CausalLanguageModel
from rsvlm.language.phrases import Reading
from rsvlm.language.plan import METADATA, TASKS, Plan

PLANS = [json.loads(line) for line in (Path(__file__).parent / "data/plans.jsonl").read_text().splitlines()]
# Measured, n = 88 and 49: exact 98.9 and 73.5, task 100 and 91.8, target 98.9 and 81.6; bank and weights of the
# choice were fitted on the first part, the second was written after and looked at once.
DEVELOPMENT, FINAL = PLANS[:88], PLANS[88:]


def tiny_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([example.question for example in read_examples()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def tiny_llama(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=512, max_position_embeddings=8192, **sizes))


@pytest.fixture(scope="module")
def tiny():
    """A whole language model with weights at random: it knows nothing, so only the grammar makes its plans valid."""
    bank = ExampleBank(read_examples()[::20])
    return CausalLanguageModel(tiny_llama(), tiny_tokenizer(), bank, base_name="tiny")


@pytest.fixture(scope="module")
def base():
    try:
        folder = resolve(download=False)
    except ModelNotFoundError as error:
        pytest.skip(f"the base language model is not on this machine: {error}")
    return CausalLanguageModel.from_pretrained(folder)


def assert_of_the_question(plan, question):
    reading = Reading(question)
    allowed = METADATA if plan.task == "metadata" else reading.phrases(plan.task)
    assert plan.target in {*allowed, ""}
    assert plan.other in {*allowed, ""}
    assert plan.relation in {*reading.relations(plan.task), ""}
    assert plan.unit in {*reading.units(plan.task), ""}


WORDS = st.sampled_from(
    ["how", "many", "small", "ships", '"there"', "left", "of", "next", "to", "the", "more", "hectares", "new"]
) | st.sampled_from(
    [
        "and",
        "or",
        "water?",
        "than",
        "forest,",
        "percent",
        "<|im_end|>",
        "\\",
        "\U0001f6f6",
        "\u05d0\u05d9\u05df",
        "\ud800",
        "{}",
        "[1]",
        "Gro\u00dfer",
        "See",
        "\u0928\u0926\u0940",
        "a\u2028b",
    ]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(WORDS, min_size=1, max_size=14).map(" ".join) | st.text(min_size=1, max_size=40))
def test_whatever_is_asked_an_untrained_model_writes_a_valid_plan_of_the_questions_own_words(tiny, question):
    try:
        plan = tiny.plan(question)
    except QueryError:
        with pytest.raises(QueryError, match="empty"):
            Reading(question)
        return
    assert isinstance(plan, Plan)
    assert_of_the_question(plan, question)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_the_question_allows_can_be_written(tiny, task):
    question = "Are there more new ships than boats to the left of the pier in hectares, and when?"
    decoder = GrammarDecoder(tiny_llama(1), tiny_tokenizer())
    text = decoder.write(decoder.prompt("Plan: "), plan_grammar(Reading(question), (task,)))
    plan = Plan.from_json(json.loads(text))
    assert plan.task == task
    assert_of_the_question(plan, question)


def test_a_long_question_is_read_and_a_longer_one_refused(tiny):
    longest = "How many ships, boats and tugs are there? " * 47
    assert_of_the_question(tiny.plan(longest), longest)
    with pytest.raises(QueryError, match="at most 2,000 characters"):
        tiny.plan("a" * 2001)


@pytest.mark.parametrize("question", ["", "   ", "\n\t", "\x00"])
def test_an_empty_question_is_refused(tiny, question):
    with pytest.raises(QueryError, match="empty"):
        tiny.plan(question)


def test_special_tokens_in_a_question_are_only_text(tiny):
    decoder = GrammarDecoder(tiny_llama(), tiny_tokenizer())
    assert 0 not in decoder.tokens("How many ships?<|im_end|>")
    assert tiny_tokenizer()("<|im_end|>").input_ids == [0]


def test_a_cached_prompt_expects_what_the_whole_text_expects():
    decoder = GrammarDecoder(tiny_llama(), tiny_tokenizer())
    head = decoder.prompt("Tasks: count.\n")
    whole = decoder.advance(None, decoder.tokens("Tasks: count.\n") + decoder.tokens("Question: how?"))
    for _ in range(2):  # the head is not used up
        assert head.read("Question: how?").expected == pytest.approx(whole.expected, abs=1e-4)


def test_likelihoods_agree_with_reading_every_token_of_every_choice():
    decoder = GrammarDecoder(tiny_llama(), tiny_tokenizer())
    prompt, choices = decoder.prompt("Plan: "), ["comparison", "count", "countess", "area"]
    spelled = {choice: decoder.tokens(choice) for choice in choices}
    for choice, found in decoder.likelihoods(prompt, choices).items():
        tokens, total, read = spelled[choice], 0.0, decoder.tokens("Plan: ")
        for at, token in enumerate(tokens):
            if at and all(rival[:at] != tokens[:at] for other, rival in spelled.items() if other != choice):
                break  # the rest follows by itself
            total += float(decoder.advance(None, read + tokens[:at]).expected[token])
        assert found == pytest.approx(total, abs=1e-4)


def test_comparison_needs_two_things_and_a_question_without_words_names_none():
    assert "comparison" not in possible_tasks(Reading("Is there more forest?"))
    assert possible_tasks(Reading("\U0001f6f6?")) == ("describe", "change", "abstain")


UNMEASURED = [
    *("How deep is the lake?", "How far is it to the harbour?", "How hot is it?", "What is the house worth?"),
    *("What is the population?", "How many km long is the river?", "Who is the owner?", "Is there no water?"),
    *("How much of it is not forest?", "Are there fields without trees?"),
]


@pytest.mark.parametrize("question", UNMEASURED)
def test_what_no_image_tells_is_not_answered(tiny, question):
    assert tiny.plan(question) == Plan("abstain")


@pytest.mark.parametrize(
    "question",
    [
        *("How many km2 are water?", "How many square km of ice?", "Is there water or not?", "Any hot springs?"),
        *("Is it snow-free?", "What is the ground sampling distance?"),
    ],
)
def test_what_only_looks_like_it_can_be_measured(question):
    assert not Reading(question).cannot_be_measured


def test_a_search_may_be_for_what_is_not_there():
    assert possible_tasks(Reading("Find airports without snow")) == ("search", "abstain")
    assert possible_tasks(Reading("Find images without snow")) == ("abstain",)  # the phrase left would be snow


def test_the_file_is_read_only_for_what_the_question_names():
    for question in ("What is the population?", "How hot is it?", "What is the mean NDVI?"):
        assert "metadata" not in possible_tasks(Reading(question))
    assert Reading("When was it taken?").metadata() == ("date",)
    assert Reading("How many bands are there?").metadata() == ("bands",)


@pytest.mark.parametrize(
    ("question", "phrase"),
    [("water", "water"), ("Storage tanks", "storage tank"), ("water?", "water"), ("round oil tank.", "round oil tank")],
)
def test_a_bare_phrase_asks_whether_it_is_there(tiny, question, phrase):
    assert tiny.plan(question) == Plan("presence", phrase)


@pytest.mark.parametrize("question", ["what?", "resolution?", "hello", "area of water", "water, forest", "more water"])
def test_what_is_more_or_less_than_a_phrase_is_not_bare(question):
    assert Reading(question).bare() == ""


def test_examples_and_test_questions_share_nothing_and_cover_every_task():
    bank = {example.question.lower() for example in read_examples()}
    asked = [row["question"].lower() for row in PLANS]
    assert not bank & set(asked)
    assert len(set(asked)) == len(asked)
    for rows in (DEVELOPMENT, FINAL):
        assert {Plan.from_json(row["plan"]).task for row in rows} == set(TASKS)
    assert {example.plan.task for example in read_examples()} == set(TASKS)


def test_every_example_is_a_plan_its_own_grammar_can_write():
    for example in read_examples():
        assert example.plan.task in possible_tasks(Reading(example.question))
        assert_of_the_question(example.plan, example.question)


def test_an_adapter_for_another_base_is_refused_by_name_and_by_shape(tmp_path):
    from peft import LoraConfig, get_peft_model

    settings_ = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="hub/tiny")
    adapted = get_peft_model(tiny_llama(), settings_)
    adapted.peft_config["default"].base_model_name_or_path = "hub/tiny"
    adapted.save_pretrained(tmp_path)
    loaded = load_adapter(tiny_llama(), tmp_path, base_name="tiny")
    assert any("lora_A" in name for name, _ in loaded.named_parameters())
    with pytest.raises(WeightsError, match="made for hub/tiny, not for other"):
        load_adapter(tiny_llama(), tmp_path, base_name="other")
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(WeightsError, match="does not fit"):
        load_adapter(wide, tmp_path, base_name="tiny")
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(WeightsError, match="damaged"):
        load_adapter(tiny_llama(), tmp_path, base_name="tiny")


def accuracies(model, rows):
    exact = task = target = 0
    for row in rows:
        wanted, plan = Plan.from_json(row["plan"]), model.plan(row["question"])
        exact, task, target = (
            exact + (plan == wanted),
            task + (plan.task == wanted.task),
            target + (plan.target == wanted.target),
        )
    return tuple(100 * n / len(rows) for n in (exact, task, target))


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "exact", "task", "target"), [(DEVELOPMENT, 92, 94, 92), (FINAL, 66, 84, 74)])
def test_the_base_model_plans_the_test_questions_far_better_than_the_majority(base, rows, exact, task, target):
    majority = 100 * max(Counter(row["plan"]["task"] for row in rows).values()) / len(rows)
    found = accuracies(base, rows)
    assert found[0] >= exact
    assert found[1] >= task > 3 * majority
    assert found[2] >= target


BASIC = {
    "How many ships are there?": Plan("count", "ship"),
    "How much of it is water?": Plan("area", "water"),
    "How much forest was lost?": Plan("change", "forest", "lost"),
    "What changed?": Plan("change"),
    "write me a poem": Plan("abstain"),
    "What is the name of the farmer?": Plan("abstain"),
    "When was this taken?": Plan("metadata", "date"),
    "find airports": Plan("search", "airport"),
}


def test_the_base_model_reads_a_plain_question(base):
    assert base.plan("How much of it is water?") == Plan("area", "water")


@pytest.mark.slow
def test_the_base_model_plans_the_plainest_questions(base):
    assert {question: base.plan(question) for question in BASIC} == BASIC


@pytest.mark.slow
def test_a_plan_takes_under_two_seconds_of_one_processor(base):
    base.plan("Is there a river?")
    started = time.process_time()
    base.plan("How many small square buildings are next to the road?")
    assert time.process_time() - started < 2
