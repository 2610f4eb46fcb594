"""Charts count right, the drawing and the table of the network follow it, tables are Markdown."""

import pytest

from lungseg_utils import plotting
from lungseg_utils.plotting.charts import wilson_interval
from lungseg_utils.plotting.style import png
from lungseg_utils.segunet import SegUNet

# --- charts --------------------------------------------------------------------------------------


def test_history_leaves_out_epochs_without_validation():
    history = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5, "validation_dice": 0.4}]
    losses, scores = plotting.plot_history(history).axes
    assert losses.lines[0].get_xydata().tolist() == [[1, 0.9], [2, 0.5]]
    assert scores.lines[0].get_xydata().tolist() == [[2, 0.4]]


def test_recall_by_size_counts_each_lesion_once():
    axes = plotting.plot_lesion_recall_by_size([0.5, 1, 2, 40], [False, True, False, True]).axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "0 of 1",
        "1 of 2",
        "none",
        "none",
        "1 of 1",
    ]


def test_wilson_interval_of_eight_in_ten():
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)  # Wilson 1927, by hand
    assert wilson_interval(0, 5)[0] == 0


def test_volumes_keep_cases_where_nothing_was_predicted():
    rows = [
        {"case": "a", "dice": 0.8, "volume_ml_true": 5.0, "volume_ml_pred": 4.0},
        {"case": "b", "dice": 0.0, "volume_ml_true": 2.0, "volume_ml_pred": 0.0},
    ]
    axes = plotting.plot_volumes(rows).axes[0]
    points = {drawn.get_label(): drawn.get_offsets().tolist() for drawn in axes.collections[1:]}
    assert points == {
        "truth": [[2.0, 0.0], [5.0, 1.0]],  # the largest on top
        "prediction": [[4.0, 1.0]],
        "nothing predicted": [[2.0 / 1.6, 0.0]],  # at the left border
    }
    assert axes.get_xlim()[0] == 2.0 / 1.6
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [text.get_text() for text in axes.texts] == ["Dice 0.00", "Dice 0.80"]
    nothing = {"case": "c", "dice": 1.0, "volume_ml_true": 0.0, "volume_ml_pred": 0.0}
    plotting.plot_volumes([nothing])  # no tumour at all is no error


def test_a_case_of_any_name_is_drawn():
    rows = [
        {"case": name, "volume_ml_true": 3, "volume_ml_pred": 2, "dice": 0.5}
        for name in ("$x_{$", "caf\udce9")  # a formula that ends nowhere; a byte that is no UTF-8
    ]
    figure = plotting.plot_volumes(rows)
    assert png(figure, 50)
    assert "$x_{$" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_fingerprint_takes_cases_without_a_label():
    rows = [
        {
            "shape": [100, 9, 9],
            "spacing_mm": [2.5, 0.8, 0.8],
            "tumour_ml": 4.0,
            "tumour_centre": [0.5, 0.4, 0.7],
        },
        {
            "shape": [80, 9, 9],
            "spacing_mm": [1.0, 0.7, 0.7],
            "tumour_ml": None,
            "tumour_centre": None,
        },
    ]
    voxels, _, places = plotting.plot_fingerprint(rows).axes
    assert voxels.collections[0].get_offsets().tolist() == [[2.5, 0.8], [1.0, 0.7]]
    box = voxels.patches[0]
    assert box.get_label() == "Task06_Lung"
    assert box.get_bbox().extents == pytest.approx((0.625, 0.6, 2.5, 0.98))
    assert places.collections[0].get_offsets().tolist() == [[0.7, 0.5]]
    plotting.plot_fingerprint(rows[1:])


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "shown", "hidden"),
    [
        ({}, {"un-pool", "pooling indices", "features, concatenated"}, {"transposed convolution"}),
        (
            {"upsample": "transpose"},
            {"transposed convolution", "features, concatenated"},
            {"pooling indices"},
        ),
        ({"skip": "none"}, {"un-pool", "pooling indices"}, {"features, concatenated"}),
    ],
)
def test_the_drawing_of_the_network_follows_its_switches(switches, shown, hidden):
    model = SegUNet(channels=(4, 8, 16), pools=[(1, 2, 2), (2, 2, 2)], **switches)
    figure = plotting.draw_network(model)
    key = {text.get_text() for text in figure.legends[0].get_texts()}
    assert shown <= key and not hidden & key
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {"1 → 4 → 4", "8 → 16 → 8", "D×H/2×W/2", "D/2×H/4×W/4"} <= words
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in figure.get_suptitle()


def test_stages_are_counted_as_by_hand():
    model = SegUNet(channels=(2, 3))
    rows = {row["block"]: row for row in plotting.trace_stages(model, (4, 4, 4))}
    assert list(rows) == ["encoder 1", "bottleneck", "decoder 1", "head"]
    assert [row["shape"] for row in rows.values()] == [
        (2, 4, 4, 4),
        (2, 2, 2, 2),
        (2, 4, 4, 4),
        (1, 4, 4, 4),
    ]
    assert [row["parameters"] for row in rows.values()] == [
        # two convolutions without bias, scale and shift of two batch norms
        27 * 1 * 2 + 27 * 2 * 2 + 2 * 2 * 2,
        27 * 2 * 3 + 27 * 3 * 2 + 2 * 3 + 2 * 2,
        27 * 4 * 2 + 27 * 2 * 2 + 2 * 2 * 2,
        2 + 1,
    ]
    flops = [
        2 * 64 * (27 * 1 * 2 + 27 * 2 * 2),
        2 * 8 * (27 * 2 * 3 + 27 * 3 * 2),
        2 * 64 * (27 * 4 * 2 + 27 * 2 * 2),
        2 * 64 * 2,
    ]
    assert [row["gflop"] * 1e9 for row in rows.values()] == pytest.approx(flops)
    assert sum(row["parameters"] for row in rows.values()) == sum(
        p.numel() for p in model.parameters()
    )
    # encoder: 3 + 2; pooling: + 1; bottleneck: two convolutions of step 2: + 8; decoder: + 4
    assert [row["receptive_field"] for row in rows.values()] == [5, 14, 18, 18]
    # convolution, batch norm and ReLU, twice, each with 2 channels of 4 x 4 x 4 float32
    assert rows["encoder 1"]["activation_mb"] * 1e6 == pytest.approx(6 * 2 * 64 * 4)


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_is_markdown_with_numbers_at_the_right():
    shown = plotting.table(
        [
            {"case": "lung_013", "found": "2 of 2", "Dice": f"{0.8123:.2f}", "HD95 (mm)": "10.9"},
            {"case": "lung_014", "found": "0 of 3", "Dice": f"{0:.2f}", "HD95 (mm)": "nan"},
        ]
    )
    lines = [
        "| case     |  found | Dice | HD95 (mm) |",
        "| -------- | -----: | ---: | --------: |",
        "| lung_013 | 2 of 2 | 0.81 |      10.9 |",
        "| lung_014 | 0 of 3 | 0.00 |       nan |",
    ]
    assert shown._repr_markdown_() == repr(shown) == "\n".join(lines)
    assert str(plotting.table([])) == ""


def test_a_table_shows_hostile_names_as_text():
    shown = str(plotting.table([{"case": "<img src=x>|a", "n": 3}]))
    assert shown.splitlines()[2] == r"| &lt;img src=x&gt;\|a | 3 |".replace("| 3", "|   3")


def test_jupyter_shows_a_table_as_markdown_and_as_the_same_text():
    from IPython.core.formatters import DisplayFormatter

    shown = plotting.table([{"case": "a", "mL": 3}])
    bundle, _ = DisplayFormatter().format(shown)
    assert bundle == {"text/markdown": str(shown), "text/plain": str(shown)}
