"""Held here: a training log drawn column by column, whatever its columns are."""

import re

import numpy as np
import pytest
from PIL import Image

from rsvlm.errors import ConfigError
from rsvlm.training.plot import is_over_a_decade, plot_log, read_log, running_mean


def write_log(folder, *, rows=300):
    chance = np.random.default_rng(0)
    lines = ["step,learning_rate,scale,loss,loss_dense,images_per_second,val_rsicd_mR,val_none"]
    for step in range(rows):
        loss = 6 * np.exp(-step / 100) + chance.uniform(0.05, 0.3)
        mean_recall = f"{20 - 1000 / (step + 60):.2f}" if step % 100 == 99 else ""
        lines.append(f"{step},{1e-4 * (1 - step / rows):.3g},14.3,{loss:.4f},{0.5 * loss + 1:.4f},81.5,{mean_recall},")
    log = folder / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    return log


def texts(svg, *, size):
    return re.findall(rf"font-size: {size}px.*>(.*)</text>", svg.read_text())


def titles(svg):
    return texts(svg, size=9)


def losses_on_the_axis(svg):
    labels = texts(svg, size=8)
    return labels[labels.index("step") + 1 :]


def slow_mean(values, window):
    found = []
    for place in range(len(values)):
        near = [v for v in values[max(0, place - window // 2) : place + window // 2 + 1] if np.isfinite(v)]
        found.append(sum(near) / len(near) if near else np.nan)
    return np.array(found)


def test_every_column_with_a_value_gets_one_panel_losses_and_validation_first(tmp_path):
    svg = plot_log(write_log(tmp_path), tmp_path / "plots" / "log.svg")
    wanted = ["loss", "loss_dense", "val_rsicd_mR", "scale", "learning_rate", "images_per_second"]
    assert titles(svg) == wanted


def test_equal_logs_give_equal_bytes_without_a_date(tmp_path):
    log = write_log(tmp_path)
    for suffix in (".svg", ".png"):
        first, second = (plot_log(log, tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second
    assert "<dc:date>" not in (tmp_path / "first.svg").read_text()


def test_a_png_has_a_panel_of_the_same_height_for_each_column(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n0,2\n1,1\n")
    with (
        Image.open(plot_log(log, tmp_path / "one.png")) as one,
        Image.open(plot_log(write_log(tmp_path), tmp_path / "six.png")) as six,
    ):
        assert one.width == six.width == 1050
        assert six.height - one.height == pytest.approx(5 * 1.05 * 150, abs=1)


def test_a_loss_over_a_decade_is_read_at_one_two_and_five_and_a_flat_one_at_even_steps(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n0,20\n1,1\n2,0.5\n")
    assert losses_on_the_axis(plot_log(log, tmp_path / "over.svg")) == ["0.5", "1", "2", "5", "10", "20"]
    log.write_text("step,loss\n0,4\n1,2\n2,1\n")
    assert losses_on_the_axis(plot_log(log, tmp_path / "flat.svg")) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("values", "over"),
    [([10, 1], True), ([9.9, 1], False), ([10, 0], False), ([10, -1], False), ([np.nan], False), ([], False)],
)
def test_a_decade_is_from_one_to_ten_among_positive_finite_values(values, over):
    assert is_over_a_decade(np.array(values, dtype=float)) is over
    assert is_over_a_decade(np.array([*values, np.inf, np.nan])) is over


def test_the_running_mean_of_a_short_row_is_as_worked_by_hand():
    assert running_mean(np.array([1.0, 2, 6, np.nan, 8]), 3).tolist() == [1.5, 3, 4, 7, 8]
    assert running_mean(np.array([1.0, 2, 6]), 0).tolist() == [1, 2, 6]


@pytest.mark.parametrize("seed", range(20))
def test_the_running_mean_equals_a_slow_one(seed):
    chance = np.random.default_rng(seed)
    values = chance.normal(size=chance.integers(1, 40))
    values[chance.random(len(values)) < 0.3] = np.nan
    window = int(chance.integers(0, 50))
    np.testing.assert_allclose(running_mean(values, window), slow_mean(values, window), atol=1e-12)


def test_a_resumed_run_keeps_the_later_row_of_a_step_and_the_order_of_steps(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss,val_top1\n0,5,\n1,4,\n2,9,\n1,3,70.5\n2,2,\n")
    columns = read_log(log)
    assert columns["step"].tolist() == [0, 1, 2]
    assert columns["loss"].tolist() == [5, 3, 2]
    np.testing.assert_array_equal(columns["val_top1"], [np.nan, 70.5, np.nan])


def test_a_run_of_one_step_and_one_whose_loss_was_not_finite_are_drawn(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n7,1.5\n")
    assert titles(plot_log(log, tmp_path / "one.svg")) == ["loss"]
    log.write_text("step,loss\n0,1.5\n1,nan\n2,inf\n3,1\n4,1\n5,1\n")
    assert titles(plot_log(log, tmp_path / "diverged.svg")) == ["loss"]


def test_a_dollar_sign_in_a_column_name_stays_a_dollar_sign(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss_$x$\n0,1\n1,2\n")
    assert titles(plot_log(log, tmp_path / "log.svg")) == ["loss_$x$"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'step'"),
        ("epoch,loss\n0,1\n", "has no column 'step'"),
        ("step,loss\n", "has no rows"),
        ("step,loss\n0,1\n1,much\n", "line 3: loss must be a number or empty; got 'much'"),
        ("step,loss\n0,1\n,2\n", "row without a step"),
        ("step,loss\n0,\n1,\n", "no column with numbers"),
        ("step\n0\n", "no column with numbers"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_refused_in_one_sentence_and_nothing_is_written(tmp_path, text, message):
    log = tmp_path / "log.csv"
    log.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        plot_log(log, tmp_path / "log.svg")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "log.svg").exists()


def test_a_long_log_makes_a_picture_of_a_size_to_put_on_a_page(tmp_path):
    assert plot_log(write_log(tmp_path, rows=20_000), tmp_path / "log.svg").stat().st_size < 500_000


def test_a_missing_log_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as a training log"):
        plot_log(tmp_path / "log.csv", tmp_path / "log.svg")
    (tmp_path / "log.csv").write_bytes(b"step,loss\n0,\xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read as a training log"):
        plot_log(tmp_path / "log.csv", tmp_path / "log.svg")


def test_a_picture_in_another_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.png or \.svg; got log\.pdf"):
        plot_log(write_log(tmp_path), tmp_path / "log.pdf")
