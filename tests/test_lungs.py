"""What is a lung and what is other air: gas, frames of zeros, tables, scans of the abdomen."""

from dataclasses import replace

import numpy as np
import pytest
from helpers_bodies import (
    MIDDLE,
    SHAPE,
    ellipse,
    fill,
    lung_masks,
    make_body,
    make_chest,
    make_colon,
    scan_of,
)
from helpers_cases import make_scan
from scipy.ndimage import rotate

from lungseg_utils import phantom, volume
from lungseg_utils.evaluation import case_metrics
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import find_lungs, prepare
from lungseg_utils.preprocess.padding import without_frame

RIGHT, LEFT = lung_masks()
BOTH = RIGHT | LEFT
TUMOUR = ellipse((34, *(MIDDLE[0], MIDDLE[1] - 19)), (4, 4, 4))
IN_PLANE = ((0, 0), (12, 12), (12, 12))


def share(found, mask) -> float:
    """Return how much of `mask` the lungs that were found hold."""
    return float(found.lungs[mask].mean())


@pytest.fixture
def chest():
    return make_chest()


# --- gas ------------------------------------------------------------------------------------------


@pytest.mark.fault("enclosed air taken for lungs")
@pytest.mark.parametrize("gas_hu", [-1000, -990, -960])
def test_a_colonography_has_no_lungs_and_its_bowel_is_not_searched(capsys, gas_hu):
    hu = make_body()
    colon = make_colon(hu, gas_hu)
    stool = ellipse((24, MIDDLE[0] + 8, MIDDLE[1] - 26), (3, 3, 3))
    hu[stool] = 30
    found = find_lungs(scan_of(hu))
    assert not found.found and not found.region[colon | stool].any() and found.region.any()
    warning = capsys.readouterr().err
    assert "scan: no lungs found; the whole scan is searched, but for what lies round" in warning
    assert "L of gas (median -9" in warning or "L of gas (median -1000" in warning


@pytest.mark.fault("enclosed air taken for lungs")
def test_the_colon_of_a_whole_trunk_is_no_lung(capsys):
    place = {"middle": 44, "height": 20}
    hu = make_chest(**place)
    right, left = lung_masks(**place)
    colon = make_colon(hu, highest=32)
    found = find_lungs(scan_of(hu))
    assert share(found, right | left) > 0.95 and share(found, colon) < 0.01
    assert found.region[colon].mean() < 0.01 and capsys.readouterr().err == ""


def test_a_colon_full_of_stool_below_the_lungs_is_no_lung():
    place = {"middle": 44, "height": 20}
    hu = make_chest(**place)
    colon = make_colon(hu, highest=32)
    fill(hu, colon, -680, 100)
    assert not find_lungs(scan_of(hu)).lungs[colon].any()


def test_bowel_full_of_stool_alone_is_doubted(capsys):
    hu = make_body()
    fill(hu, make_colon(hu), -560, 60)
    find_lungs(scan_of(hu))
    assert "what was taken for lungs has a median of -5" in capsys.readouterr().err


def test_the_bases_of_lungs_in_a_scan_of_the_abdomen_are_searched_and_no_more(capsys):
    hu = make_body()
    colon = make_colon(hu, highest=36)
    bases = np.logical_or(*lung_masks(middle=66, height=22))
    dome = ellipse((56, *MIDDLE), (7, 14, 20)) & bases
    fill(hu, bases, -800, 40)
    fill(hu, dome, 40)
    found = find_lungs(scan_of(hu))
    assert found.found and share(found, bases & ~dome) > 0.9 and not found.lungs[colon].any()
    lowest = np.nonzero(bases)[0].min()
    assert not found.region[colon].any() and not found.region[: lowest - 3].any()
    assert "with only the bases of the lungs" in capsys.readouterr().err


def test_bases_smaller_than_any_lung_are_found():
    hu = make_body()
    colon = make_colon(hu, highest=40)
    bases = np.zeros(SHAPE, bool)
    for side in (-20, 20):
        bases |= ellipse((66, MIDDLE[0] + 10, MIDDLE[1] + side), (7, 8, 8))
    fill(hu, bases, -780, 40)
    found = find_lungs(scan_of(hu))
    assert bases.sum() * 0.064 < 100 and share(found, bases) > 0.9 and not found.lungs[colon].any()


def test_gas_that_touches_a_lung_from_below_is_split_off(chest):
    """As a colon under the diaphragm, which coarse voxels join to the lung."""
    gas = ellipse((10, MIDDLE[0] - 2, MIDDLE[1] + 19), (7, 13, 11)) & ~LEFT
    wall = np.roll(LEFT, -1, axis=0) & ~LEFT
    chest[wall] = 40
    fill(chest, gas & ~wall, -990)
    chest[wall & ellipse((14, 36, 69), (9, 1.5, 1.5))] = -700  # where they touch
    found = find_lungs(scan_of(chest))
    assert share(found, gas) < 0.05 and share(found, BOTH) > 0.95


@pytest.mark.parametrize(
    "is_gas",
    [LEFT, LEFT & (np.arange(SHAPE[1]) < MIDDLE[0])[:, None], ellipse((44, 34, 66), (9, 9, 8))],
    ids=["total pneumothorax", "anterior pneumothorax", "bulla"],
)
def test_gas_where_lung_belongs_stays_with_the_lungs(chest, is_gas):
    fill(chest, is_gas & BOTH, -1000)
    assert share(find_lungs(scan_of(chest)), BOTH) > 0.95


@pytest.mark.parametrize("filled", [LEFT, RIGHT], ids=["left", "right"])
def test_one_lung_alone_is_enough(chest, filled, capsys):
    fill(chest, filled, 30)
    scan = scan_of(chest)
    found = find_lungs(scan)
    assert share(found, BOTH & ~filled) > 0.95 and not found.lungs[filled].any()
    prepare(scan)
    assert capsys.readouterr().err == ""


def test_lungs_with_severe_emphysema_are_lungs(chest):
    fill(chest, BOTH, -945, 40)
    chest[BOTH & (np.random.default_rng(5).random(SHAPE) < 0.1)] = -500
    assert share(find_lungs(scan_of(chest)), BOTH) > 0.95


def test_lungs_of_one_value_are_lungs(chest):
    chest[BOTH] = -850
    assert share(find_lungs(scan_of(chest)), BOTH) > 0.95


# --- what encloses air round the patient ----------------------------------------------------------


def frame(hu, label, widths, value=0):
    return tuple(np.pad(one, widths, constant_values=v) for one, v in ((hu, value), (label, 0)))


def circle(hu, label, widths, value=0):
    outside = ~ellipse((0, *MIDDLE), (np.inf, 38, 44))
    return np.where(outside, value, hu), label


def turned(hu, label, degrees, order):
    options = {"reshape": True, "axes": (1, 2)}
    return (
        rotate(hu, degrees, order=order, cval=0, **options),
        rotate(label.astype(float), degrees, order=1, **options) > 0.5,
    )


@pytest.mark.fault("enclosed air taken for lungs")
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (frame, (((3, 3), (12, 12), (12, 12)),)),
        (frame, (IN_PLANE,)),
        (frame, (((0, 0), (0, 0), (0, 20)),)),
        (frame, (((5, 0), (0, 0), (0, 0)),)),
        (circle, (None,)),
        (turned, (8, 1)),
        (turned, (-5, 3)),
    ],
    ids=["all sides", "in the slices", "left", "below", "circle", "turned", "turned by cubics"],
)
def test_a_frame_of_zeros_is_taken_for_air_and_reported(chest, capsys, change, options):
    chest[TUMOUR] = 35
    hu, label = change(np.rint(chest), TUMOUR, *options)
    found = find_lungs(scan_of(hu))
    assert "of it is a frame of 0 HU, as padding with zeros leaves it" in capsys.readouterr().err
    plain = find_lungs(scan_of(chest))
    assert found.found and found.lungs.sum() == pytest.approx(plain.lungs.sum(), rel=0.03)
    ready = prepare(scan_of(hu), label=label.astype(np.uint8), spacing_mm=4.0)
    assert capsys.readouterr().err.count("warning") == 1
    assert ready.label.sum() == pytest.approx(TUMOUR.sum(), rel=0.1)
    assert np.median(ready.hu[ready.label == 1]) == pytest.approx(35, abs=25)
    assert ready.back(ready.label).shape == hu.shape


@pytest.mark.fault("enclosed air taken for lungs")
@pytest.mark.parametrize("value", [-300, -100, 1000, "noise"])
def test_a_frame_of_other_values_hides_no_lungs(chest, value):
    hu, _ = frame(chest, BOTH, IN_PLANE, 0 if value == "noise" else value)
    if value == "noise":
        is_frame = np.pad(np.zeros(SHAPE, bool), IN_PLANE, constant_values=True)
        fill(hu, is_frame, 0, 10)
    found = find_lungs(scan_of(hu))
    lungs = np.pad(BOTH, IN_PLANE)
    assert share(found, lungs) > 0.95 and found.lungs.sum() < 1.02 * lungs.sum()


def test_only_the_frame_of_a_padded_scan_is_changed(chest):
    hu, _ = frame(np.rint(chest).astype(np.int16), BOTH, IN_PLANE)
    cleaned = without_frame(make_scan(hu, (4.0, 4.0, 4.0))).hu
    inside = np.pad(np.ones(SHAPE, bool), IN_PLANE)
    assert np.array_equal(cleaned[inside], hu[inside]) and (cleaned[~inside] == -1024).all()


@pytest.mark.parametrize("kind", ["plain", "lungs cut out", "water"])
def test_what_is_no_frame_is_left_alone(chest, kind, capsys):
    hu = np.rint(chest).astype(np.int16)
    if kind == "lungs cut out":
        hu[~BOTH] = 0
    elif kind == "water":
        hu[:] = 0
        hu[BOTH] = -850
    scan = make_scan(hu, (4.0, 4.0, 4.0))
    assert without_frame(scan) is scan and share(find_lungs(scan), BOTH) > 0.95
    assert capsys.readouterr().err == ""


@pytest.mark.fault("enclosed air taken for lungs")
@pytest.mark.parametrize("foam_hu", [-950, -900, -850])
@pytest.mark.parametrize("is_joined", [False, True])
def test_the_foam_inside_a_table_is_no_lung(chest, foam_hu, is_joined):
    if is_joined:
        chest[:, 60:68][chest[:, 60:68] < -500] = -100
    chest[:, 66:74, 10:90] = -100
    foam = np.zeros(SHAPE, bool)
    foam[:, 67:73, 11:89] = True
    fill(chest, foam, foam_hu, 4)
    found = find_lungs(scan_of(chest))
    assert share(found, BOTH) > 0.95 and not found.lungs[foam].any()


@pytest.mark.fault("enclosed air taken for lungs")
def test_the_air_under_a_blanket_is_no_lung(chest):
    around = (0, *MIDDLE)
    under = ellipse(around, (np.inf, 34, 46)) & ~ellipse(around, (np.inf, 28, 41))
    chest[ellipse(around, (np.inf, 35.5, 47.5)) & ~ellipse(around, (np.inf, 34, 46))] = -50
    found = find_lungs(scan_of(chest))
    assert share(found, BOTH) > 0.95 and not found.lungs[under].any()


@pytest.mark.parametrize("degrees", [7, -12])
@pytest.mark.parametrize("axes", [(0, 1), (0, 2)])
@pytest.mark.parametrize("value", [-1024, 0])
def test_a_tilted_scan_whose_airway_is_open_keeps_both_lungs(axes, degrees, value):
    """A windpipe from one lung to the upper end; padding above it joins that lung to the air."""
    hu = make_chest()
    airway = ellipse((0, MIDDLE[0], MIDDLE[1]), (np.inf, 3, 3))
    airway[:40] = False
    airway[38:42, int(MIDDLE[0]) - 2 : int(MIDDLE[0]) + 3, 50:60] = True
    fill(hu, airway & ~BOTH, -990)
    tilted = rotate(hu, degrees, axes=axes, order=1, cval=value)
    found = find_lungs(scan_of(tilted))
    assert found.lungs.sum() > 0.93 * BOTH.sum()


def test_lungs_of_a_patient_who_lies_on_the_side_are_found(chest):
    found = find_lungs(scan_of(np.rot90(chest, axes=(1, 2))))
    assert share(found, np.rot90(BOTH, axes=(1, 2))) > 0.95


# --- ordinary chests ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_phantoms_and_pieces_of_them_are_prepared_without_a_warning(seed, capsys):
    scan, label = phantom.make_case(seed, tier="quick")
    found = find_lungs(scan)
    assert found.found and label[found.box].sum() == label.sum()
    depth = len(scan.hu) // 2
    for part in (slice(None), slice(depth - 5, depth + 5), slice(depth, None)):
        prepare(replace(scan, hu=scan.hu[part]))
    assert capsys.readouterr().err == ""


# --- real scans -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor():
    return Predictor(device="cpu")


@pytest.mark.parametrize("name", ["flt-breast-001-b", "ts-abdomen"])
def test_nothing_is_marked_in_a_real_abdomen(real_ct, predictor, name, capsys):
    scan = volume.read(real_ct / name / "ct.nii.gz")
    assert not predictor.segment(scan).mask.any()
    assert "with only the bases of the lungs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "dice"), [("lung1-001", 0.83), ("lidc-0001-slab", 0.90), ("ibsi-pat3", 0.67)]
)
def test_real_tumours_are_found_with_and_without_a_frame_of_zeros(real_ct, predictor, name, dice):
    scan = volume.read(real_ct / name / "ct.nii.gz")
    truth = volume.read_label(real_ct / name / "tumour.nii.gz", like=scan)
    row = case_metrics(truth, predictor.segment(scan).mask, scan.spacing_mm)
    assert row["lesions_found"] == row["lesions_true"] == 1
    assert row["dice"] == pytest.approx(dice, abs=0.02)
    if name != "ibsi-pat3":
        widths = ((4, 4), (40, 40), (40, 40))
        mask = predictor.segment(replace(scan, hu=np.pad(scan.hu, widths))).mask
        row = case_metrics(np.pad(truth, widths), mask, scan.spacing_mm)
        assert row["dice"] == pytest.approx(dice, abs=0.02)
