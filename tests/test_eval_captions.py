"""Caption metrics against values worked by hand, pycocoevalcap's own corpus scores, and the Java tokeniser."""

import json
import math
import os
import shutil

import numpy as np
import pytest

from eval.metrics.captions import caption_statistics, constant_caption, meteor, random_captions, tokenise
from eval.statistics import intervals
from rsvlm.errors import EvaluationError

WORDS = ["a", "the", "two", "many", "planes", "trees", "road", "near", "green", "building", "parked", "on"]
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="no Java on the path")


def random_sentence(chance, shortest):
    return " ".join(chance.choice(WORDS, size=chance.integers(shortest, 12)))


def random_cases(seed, count):
    chance = np.random.default_rng(seed)
    told = [random_sentence(chance, 0) for _ in range(count)]
    return told, [[random_sentence(chance, 1) for _ in range(chance.integers(1, 6))] for _ in range(count)]


def published_scores(told, truth):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = dict(enumerate(truth)), {image: [caption] for image, caption in enumerate(told)}
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    found = {f"BLEU-{order + 1}": value for order, value in enumerate(bleu)}
    found |= {"ROUGE-L": Rouge().compute_score(gts, res)[0], "CIDEr": Cider().compute_score(gts, res)[0]}
    return {name: 100 * float(value) for name, value in found.items()}


@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 2), (2, 7), (3, 60), (4, 200)])
def test_metrics_are_the_corpus_scores_of_pycocoevalcap(seed, count):
    told, truth = random_cases(seed, count)
    ours = caption_statistics(told, truth, tokenised=True).metrics()
    assert list(ours) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert ours == pytest.approx(published_scores(told, truth), abs=1e-9)


def test_bleu_of_a_resampling_is_the_corpus_score_of_the_drawn_images():
    told, truth = random_cases(5, 20)
    statistics = caption_statistics(told, truth, tokenised=True)
    drawn = np.random.default_rng(0).integers(20, size=20)
    ours = statistics.values(statistics.rows[drawn].sum(axis=0)[None])
    published = published_scores([told[i] for i in drawn], [truth[i] for i in drawn])
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert ours[name][0] == pytest.approx(published[name], abs=1e-9)


def test_bleu_and_rouge_by_hand():
    # told: a plane on a road (5 words); closest reference: "a plane is on the road" (6 words)
    # unigrams correct: a (1 of 2), plane, on, road = 4 of 5; bigrams: "a plane" = 1 of 4
    # brevity exp(1 - 6/5); BLEU-1 = 0.8 e^-0.2 = 65.498, BLEU-2 = sqrt(0.8 / 4) e^-0.2 = 36.615
    # longest common subsequence "a plane on road" = 4: P = 4/5, R = 4/6
    # ROUGE-L = (1 + 1.44) P R / (R + 1.44 P) = 1.301333 / 1.818667 = 71.554
    found = caption_statistics(["A plane on a road."], [["A plane is on the road."]]).metrics()
    assert found["BLEU-1"] == pytest.approx(80 * math.exp(-0.2), abs=1e-6)
    assert found["BLEU-2"] == pytest.approx(100 * math.sqrt(0.2) * math.exp(-0.2), abs=1e-6)
    assert found["ROUGE-L"] == pytest.approx(71.5543, abs=1e-4)


def test_the_shorter_reference_counts_when_two_are_equally_close():
    # 3 words told, references of 2 and 4: 2 is taken, so no brevity penalty; all 3 words are in the references
    found = caption_statistics(["a b c"], [["a b", "a b c d"]], tokenised=True).metrics()
    assert found["BLEU-1"] == pytest.approx(100, abs=1e-6)


def test_rouge_takes_precision_and_recall_from_different_references():
    # told "a b c d"; "a" gives R = 1 and P = 1/4; "a b c x y z" gives P = 3/4 and R = 1/2
    # so P = 3/4, R = 1: 2.44 * 0.75 / (1 + 1.44 * 0.75) = 1.83 / 2.08 = 87.98
    found = caption_statistics(["a b c d"], [["a", "a b c x y z"]], tokenised=True).metrics()
    assert found["ROUGE-L"] == pytest.approx(100 * 1.83 / 2.08)


def test_cider_by_hand():
    # Two images, so log N = log 2. "road" is in both references: weight 0. "green" and "wide" in one: weight log 2.
    # First image, told "green road" = its reference: cosine 1 for unigrams and for the bigram, 0 for n = 3 and 4:
    # 10 * (1 + 1 + 0 + 0) / 4 = 5. Second, told "grey road" for "wide road": nothing weighted is shared, 0. Mean 2.5.
    found = caption_statistics(["green road", "grey road"], [["green road"], ["wide road"]]).metrics()
    assert found["CIDEr"] == pytest.approx(250)


def test_cider_of_one_image_is_zero_even_when_perfect():
    found = caption_statistics(["many green trees near a road"], [["many green trees near a road"]]).metrics()
    assert found["CIDEr"] == 0
    assert found["BLEU-4"] == pytest.approx(100, abs=1e-5)


def test_an_empty_prediction_scores_zero():
    assert all(value == 0 for value in caption_statistics([""], [["many trees"]]).metrics().values())
    some = caption_statistics(["", "a road"], [["many trees"], ["a road"]])
    assert some.rows[0, :7].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert some.metrics()["ROUGE-L"] == pytest.approx(50)


def test_texts_are_tokenised_unless_they_are_said_to_be():
    assert caption_statistics(["A Road!"], [["a road ."]]).metrics()["BLEU-2"] == pytest.approx(100, abs=1e-5)
    assert caption_statistics(["A Road!"], [["a road ."]], tokenised=True).metrics()["BLEU-1"] < 1e-3


def test_the_same_image_twice_changes_no_mean():
    told, truth = ["a road", "two planes"], [["a wide road"], ["two planes parked"]]
    once, twice = caption_statistics(told, truth).metrics(), caption_statistics(told * 2, truth * 2).metrics()
    assert {n: v for n, v in twice.items() if n != "CIDEr"} == pytest.approx(
        {n: v for n, v in once.items() if n != "CIDEr"}
    )


@pytest.mark.parametrize("references", [[["a road"], []], [["a road"], [" . "]], [["a road"], ["", "."]]])
def test_an_image_without_words_in_its_references_is_named(references):
    with pytest.raises(EvaluationError, match="image 1 has no reference with a word"):
        caption_statistics(["a road", "trees"], references)


def test_a_reference_without_a_word_beside_others_counts_as_pycocoevalcap_has_it():
    told, truth = ["a bridge", "a road"], [["", "a bridge"], ["a road", "a wide road"]]
    ours = caption_statistics(["a bridge", "a road"], [[".", "a bridge ."], ["a road", "a wide road"]]).metrics()
    assert ours == pytest.approx(published_scores(told, truth), abs=1e-9)


def test_an_empty_prediction_does_not_agree_with_an_empty_reference():
    assert published_scores([""], [["", "a bridge"]])["ROUGE-L"] == 100  # what is not taken over
    assert caption_statistics([""], [["", "a bridge"]]).metrics()["ROUGE-L"] == 0


@pytest.mark.parametrize(("told", "truth"), [(["a"], []), ([], []), (["a", "b"], [["a"]])])
def test_lists_that_do_not_fit_are_refused(told, truth):
    with pytest.raises(EvaluationError, match="give as many"):
        caption_statistics(told, truth)


def test_scoring_prints_nothing(capsys):
    caption_statistics(["a road"], [["a road"]])
    assert capsys.readouterr() == ("", "")


def test_intervals_hold_the_value():
    told, truth = random_cases(6, 50)
    found = intervals(caption_statistics(told, truth, tokenised=True), rounds=200)
    assert all(each.low <= each.value <= each.high for each in found.values())
    assert found["CIDEr"].low < found["CIDEr"].high


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        ("Many planes, parked (in rows) .", "many planes parked -lrb- in rows -rrb-"),
        ("There's no car; it isn't here and cannot be!", "there 's no car it is n't here and can not be"),
        ("a T-junction\u2019s 10,000 trees \u2013 25% of 3.5 m\u00b2", "a t-junction 's 10,000 trees 25 % of 3.5 m ²"),
        ('a "white" building and/or 1/2 road...', "a white building and/or 1/2 road"),
        ("hills,surrounded by the cars.and trees", "hills surrounded by the cars.and trees"),
        ("about 10 m. The U.S. base, houses, etc.", "about 10 m the u.s. base houses etc."),
        ("line one\n\tline two", "line one line two"),
    ],
)
def test_tokens_by_hand(text, tokens):
    assert tokenise(text) == tokens


def java_tokens(sentences):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    by_image = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(sentences)})
    return [by_image[i][0] for i in range(len(sentences))]


def mutated(sentences):
    """The same sentences with the punctuation that models write and these people did not."""
    chance = np.random.default_rng(0)
    marks = [", ", "; ", ": ", " - ", " (", ") ", "'s ", ' "', "! ", " 3.5 m ", " 10,000 ", " 25% ", " and/or ", "... "]
    marks += [
        " isn't ",
        " I'm ",
        " -- ",
        "\u2019s ",
        " [",
        "] ",
        " 2017-02-16 ",
        " 120 m\u00b2 ",
        " U.S. ",
        " etc. ",
        ",",
    ]
    for sentence in sentences:
        words = sentence.split(" ")
        words[chance.integers(len(words))] += marks[chance.integers(len(marks))]
        yield chance.choice([str.lower, str.capitalize, str.upper])(" ".join(words))


@JAVA
def test_tokens_are_those_of_the_java_tokeniser_on_real_captions(data_dir):
    lines = (data_dir / "text" / "ucm_sydney_train_sentences.txt").read_text().splitlines()
    levir = (data_dir / "text" / "levir_cc_train_sentences.jsonl").read_text().splitlines()
    rsicd = (data_dir / "rsicd_aid" / "captions.jsonl").read_text().splitlines()
    lines += [json.loads(line)["caption"] for line in levir[::10]]
    lines += [caption for line in rsicd[::5] for caption in json.loads(line)["captions"]]
    sentences = sorted(set(lines))
    sentences += mutated(sentences[::10])
    assert len(sentences) > 3000
    differ = [
        (text, java) for text, java in zip(sentences, java_tokens(sentences), strict=True) if tokenise(text) != java
    ]
    assert differ == []


@JAVA
@pytest.mark.slow
def test_meteor_is_corpus_wide_and_lets_an_empty_prediction_be():
    whole, each = meteor(["many green trees", "", "a road"], [["many green trees ."], ["a road"], ["a wide road"]])
    assert each[:2] == [100, 0]
    assert 0 < each[2] < 100
    assert whole != pytest.approx(np.mean(each))


def test_meteor_without_java_is_refused_and_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="METEOR needs Java"):
        meteor(["a road"], [["a road"]])


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Java is a shell script")
def test_a_java_that_stops_is_an_error_and_no_wait(monkeypatch, tmp_path):
    stand_in = tmp_path / "java"
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="scorer stopped"):
        meteor(["a road"], [["a road"]])


def test_the_constant_caption_is_the_most_frequent_first_by_alphabet():
    assert constant_caption([["b", "b"], ["a", "a"], ["c"]]) == "a"
    assert constant_caption([["b"], ["c", "c"]]) == "c"
    with pytest.raises(EvaluationError, match="no reference"):
        constant_caption([[]])


def test_random_captions_come_from_another_image_and_repeat_with_the_seed():
    references = [[f"{image} {n}" for n in range(3)] for image in range(9)]
    first = random_captions(references, 0)
    assert all(caption.split()[0] != str(image) for image, caption in enumerate(first))
    assert first == random_captions(references, 0)
    assert first != random_captions(references, 1)
    drawn = {random_captions(references, seed)[0] for seed in range(400)}
    assert drawn == {caption for captions in references[1:] for caption in captions}


def test_random_captions_need_a_second_image():
    with pytest.raises(EvaluationError, match="at least two"):
        random_captions([["a road"]], 0)
