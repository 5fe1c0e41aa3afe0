"""Planning accuracy by hand."""

import json

import pytest
from fakes import KeywordPlanner

from eval.planning import evaluate, read_plans
from rsvlm.errors import ConfigError


def manifest(tmp_path, *rows):
    path = tmp_path / "plans.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_accuracies_by_hand(tmp_path):
    path = manifest(
        tmp_path,
        {"question": "How much of it is water?", "plan": {"task": "area", "target": "water"}},
        {"question": "Is there any snow?", "plan": {"task": "presence", "target": "ice"}},
        {"question": "Where is Rome?", "plan": {"task": "metadata", "target": "place"}},
        {"question": "Tell me about it.", "plan": {"task": "describe"}},
    )
    report = evaluate(KeywordPlanner(), read_plans(path), seed=0)
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    assert values == {"exact": 50.0, "task": 75.0, "target": 50.0}
    assert report["baselines"]["majority"]["task"]["value"] == 25.0
    assert report["metrics"]["exact"]["low"] <= 50 <= report["metrics"]["exact"]["high"]


@pytest.mark.parametrize("row", [{"question": "x"}, {"question": "x", "plan": {"task": "fly"}}, {"plan": {}}])
def test_a_wrong_line_is_named_by_its_number(tmp_path, row):
    good = {"question": "Tell me.", "plan": {"task": "describe"}}
    with pytest.raises(ConfigError, match=r"plans\.jsonl:2"):
        read_plans(manifest(tmp_path, good, row))
