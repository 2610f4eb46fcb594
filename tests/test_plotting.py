"""Figures show anatomy the right way up, in millimetres, with the window in the title."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from lungseg_utils import plotting
from lungseg_utils.plotting.slices import centre_of
from lungseg_utils.plotting.solid import render
from lungseg_utils.plotting.style import GREYS, TRUTH_COLOUR, png

SPACING_MM = (3.0, 1.0, 0.5)
SHAPE = (10, 20, 30)


@pytest.fixture
def hu():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) / 6 - 900


@pytest.fixture
def mask():
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 8:14, 10:20] = 1
    return mask


def drawn(axes):
    """Return the first image of `axes` as it is seen: row 0 at the top."""
    image = axes.images[0]
    return image.get_array() if image.origin == "upper" else image.get_array()[::-1]


def letters(axes):
    """Return the sides of the patient at left, right, top and bottom of `axes`."""
    at = {text.get_text(): text.get_position() for text in axes.texts if len(text.get_text()) == 1}
    by_x, by_y = (sorted(at, key=lambda letter: at[letter][axis]) for axis in (0, 1))
    return by_x[0], by_x[-1], by_y[-1], by_y[0]


# --- slices --------------------------------------------------------------------------------------


def test_planes_are_cut_through_the_centre_and_drawn_head_up(hu):
    axial, coronal, sagittal = plotting.show_planes(
        hu, spacing_mm=SPACING_MM, centre=(2, 5, 7)
    ).axes
    assert np.array_equal(drawn(axial), hu[2])  # front at the top, the patient's left at our right
    assert np.array_equal(drawn(coronal), hu[::-1, 5])
    assert np.array_equal(drawn(sagittal), hu[::-1, :, 7])


def test_sides_of_the_patient_stand_at_the_borders(hu):
    panels = plotting.show_planes(hu, spacing_mm=SPACING_MM).axes
    assert [letters(axes) for axes in panels] == [
        ("R", "L", "A", "P"),
        ("R", "L", "H", "F"),
        ("A", "P", "H", "F"),
    ]


def test_axes_are_in_millimetres(hu):
    for axes, (width, height) in zip(
        plotting.show_planes(hu, spacing_mm=SPACING_MM).axes,
        [(15, 20), (15, 30), (20, 30)],
        strict=True,
    ):
        assert axes.get_aspect() == 1
        assert np.ptp(axes.get_xlim()) == pytest.approx(width)
        assert np.ptp(axes.get_ylim()) == pytest.approx(height)


def test_the_window_sets_the_grey_levels_and_is_in_the_title(hu):
    figure = plotting.show_planes(
        hu, spacing_mm=SPACING_MM, window_hu=plotting.SOFT_TISSUE_WINDOW_HU
    )
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(-160, 240)}
    assert "−160 to 240 HU" in figure.get_suptitle()
    assert "−1350 to 150 HU" in plotting.show_slice(hu, spacing_mm=SPACING_MM).axes[0].get_title()


def test_window_clips_to_black_and_white():
    assert plotting.window([-3000, -1350, -600, 150, 900]).tolist() == [0, 0, 0.5, 1, 1]


def test_truth_is_solid_and_prediction_dashed_in_different_colours(hu, mask):
    figure = plotting.show_planes(hu, mask, mask, spacing_mm=SPACING_MM)
    truth, prediction = figure.legends[0].get_lines()
    assert (truth.get_linestyle(), prediction.get_linestyle()) == ("-", "--")
    assert truth.get_color() != prediction.get_color()
    contours = [c for c in figure.axes[0].collections if not isinstance(c, PathCollection)]
    assert len(contours) == 2


def test_an_outline_lies_on_the_borders_of_its_voxels(hu, mask):
    axes = plotting.show_slice(hu, index=4, mask=mask, spacing_mm=SPACING_MM).axes[0]
    box = axes.collections[0].get_paths()[0].get_extents()
    assert (box.x0, box.x1) == pytest.approx((5, 10))  # columns 10 to 19 of 0.5 mm
    assert (box.y0, box.y1) == pytest.approx((8, 14))


def test_a_field_shows_the_surroundings_of_the_centre_only(hu, mask):
    figure = plotting.show_planes(hu, mask, spacing_mm=SPACING_MM, centre=(9, 0, 15), field_mm=6)
    assert np.array_equal(drawn(figure.axes[0]), hu[9, 0:6, 9:21])  # moved to lie inside the scan
    assert "slice 10 of 10" in figure.axes[0].get_title()


def test_the_centre_lies_in_the_largest_lesion_even_if_that_is_hollow():
    mask = np.zeros((5, 20, 20), bool)
    mask[2, 4:15, 4:15] = True
    mask[2, 5:14, 5:14] = False
    mask[0, 0, 0] = True
    centre = centre_of(None, mask, shape=mask.shape)
    assert mask[centre]
    assert centre[0] == 2
    assert centre_of(None, np.zeros_like(mask), shape=mask.shape) == (2, 10, 10)


def test_an_array_needs_its_spacing(hu):
    with pytest.raises(TypeError, match="spacing_mm"):
        plotting.show_planes(hu)


def test_an_error_map_tells_found_false_and_missed_apart(hu, mask):
    figure = plotting.show_error_map(
        hu, mask, np.roll(mask, 4, axis=2), spacing_mm=SPACING_MM, centre=(4, 10, 12)
    )
    patches = figure.legends[0].get_patches()
    voxel_ml = 1.5e-3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"found ({3 * 6 * 6 * voxel_ml:.1f} mL)",
        f"false positive ({3 * 6 * 4 * voxel_ml:.1f} mL)",
        f"missed ({3 * 6 * 4 * voxel_ml:.1f} mL)",
    ]
    overlay = figure.axes[0].images[1].get_array()
    for patch, column in zip(patches, (15, 21, 11), strict=True):
        assert to_hex(overlay[10, column, :3]) == to_hex(patch.get_facecolor())
    assert overlay[0, 0, 3] == 0


# --- 3D ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "index", "is_right"),
    [
        (0, (5, 10, 18), True),  # the patient's left is at our right
        (0, (5, 2, 10), None),  # in front: no side
        (90, (5, 18, 10), True),  # from the patient's left, the back is at our right
        (90, (5, 2, 10), False),
    ],
)
def test_a_body_is_drawn_at_its_side(degrees, index, is_right):
    grid = np.zeros((11, 21, 21), np.float32)
    grid[tuple(slice(i - 1, i + 2) for i in index)] = 1
    picture = render({"truth": grid}, degrees)
    column = np.argwhere(picture.min(axis=2) < 0.9)[:, 1].mean()
    middle = (picture.shape[1] - 1) / 2
    assert is_right is None or (column > middle) == is_right
    assert is_right is not None or column == pytest.approx(middle, abs=0.6)


def test_what_stands_in_front_hides_what_is_behind():
    front, back = np.zeros((2, 9, 15, 15), np.float32)
    front[3:6, 2:5, 5:10] = back[3:6, 9:12, 5:10] = 1
    alone, both = render({"truth": front}, 0), render({"truth": front, "prediction": back}, 0)
    assert both[4, 7] == pytest.approx(alone[4, 7], abs=1e-3)


def test_render_3d_draws_every_view_at_one_scale(mask):
    figure = plotting.render_3d(mask, spacing_mm=SPACING_MM, lungs=np.ones(SHAPE), turns=(0, 90))
    assert [axes.get_title() for axes in figure.axes] == [
        "from the front",
        "from the patient's left",
    ]
    plotting.render_3d(np.zeros(SHAPE), spacing_mm=SPACING_MM)  # nothing to see is no error


# --- style ---------------------------------------------------------------------------------------


def test_save_figure_writes_the_same_bytes_twice_and_returns_where(tmp_path, hu, monkeypatch):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    monkeypatch.delenv("LUNGSEG_FIGURES", raising=False)
    path = plotting.save_figure(plotting.show_slice(hu, spacing_mm=SPACING_MM), "01_slice")
    again = plotting.save_figure(
        plotting.show_slice(hu, spacing_mm=SPACING_MM), "01_slice", tmp_path / "elsewhere"
    )
    assert path == tmp_path.resolve() / "figures" / "01_slice.png"
    assert path.read_bytes() == again.read_bytes()


def test_the_course_collects_its_figures_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGSEG_FIGURES", str(tmp_path / "figures of a course"))
    path = plotting.save_figure(plotting.new_figure(1, 1), "01_nothing")
    assert path == tmp_path / "figures of a course" / "01_nothing.png" and path.is_file()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_few_colours_keep_the_greys_of_a_ct_and_the_colour_of_a_thin_outline(mask):
    """Every grey is at most half a step off and stays grey; the outline keeps its colour."""
    noise = np.random.default_rng(0).normal(-600, 300, SHAPE)
    figure = plotting.show_slice(noise, spacing_mm=SPACING_MM, mask=mask)
    full, few = pixels(png(figure, dpi=80)), pixels(png(figure, dpi=80, few_colours=True))
    is_grey = np.ptp(full, axis=2) == 0
    assert np.abs(few - full)[is_grey].max() <= 255 / (GREYS - 1)
    assert np.ptp(few[is_grey], axis=1).max() == 0
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    truth = np.round(255 * np.array(to_rgb(TRUTH_COLOUR)))
    assert np.abs(few - truth).max(axis=2).min() <= 10
    assert len(figure._repr_png_()) < 0.7 * len(png(figure, dpi=80))


def test_few_colours_take_a_picture_without_any_grey_or_colour():
    for shade in ("0.5", "#0072B2"):
        figure = plotting.new_figure(1, 1)
        figure.set_facecolor(shade)
        few = pixels(png(figure, dpi=80, few_colours=True))
        assert np.abs(few - np.round(255 * np.array(to_rgb(shade)))).max() <= 1


def test_jupyter_shows_a_figure_once_and_pyplot_does_not_keep_it(hu):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = plotting.show_slice(hu, spacing_mm=SPACING_MM)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before


def test_style_takes_colours_and_line_styles_that_differ():
    plotting.use_style()
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()
    assert len(set(zip(cycle["color"], cycle["linestyle"], strict=True))) == len(cycle["color"])
    assert cycle["color"][:2] == ["#0072B2", "#D55E00"]
