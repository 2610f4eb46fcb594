"""Structures that look like a tumour and are never labelled, and how many tumours there are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_phantom import along, cube, filled, lung_canvas, patient

from lungseg_utils import decathlon
from lungseg_utils.components import label_components
from lungseg_utils.phantom import (
    bowel,
    chest,
    infection,
    lungs,
    make_case,
    synthesise,
    trees,
    tumours,
    write_dataset,
)
from lungseg_utils.phantom.fields import Canvas
from lungseg_utils.phantom.tumours import Lesion
from lungseg_utils.runtime import LungsegError

COARSE_MM = (5.0, 5.0, 5.0)


def _person_in(grid, **shapes):
    """Return a patient who is all lung, in body coordinates equal to the world's."""
    frame = SimpleNamespace(grid=grid, z=along(grid, 0), y=along(grid, 1), x=along(grid, 2))
    return replace(patient(grid, **shapes), frame=frame)


# --- how many tumours -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_chest_has_as_many_tumours_as_asked_for_and_is_else_the_same(count):
    scan, label = make_case(5, tumours=count)
    assert label_components(label).max() == count
    usual, _ = make_case(5)
    assert scan.hu.shape == usual.hu.shape and np.array_equal(scan.affine, usual.affine)


def test_tumours_that_hardly_show_are_drawn_again(monkeypatch):
    """A chest of nodules, most of them too small, still has the number asked for."""
    monkeypatch.setattr(tumours, "draw_lesion", lambda *a, **k: Lesion("lung", "solid", "round", 2))
    found = synthesise(4, spacing_mm=COARSE_MM, mix="task06", tumours=5)
    assert len(found.lesions) == 5
    centres = np.array([lesion.centre_mm for lesion in found.lesions])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(5, 1)]
    assert apart.min() > 2 * found.lesions[-1].radius_mm


@pytest.mark.parametrize("wrong", [-1, 10, 1.5, True, "2"])
def test_an_impossible_number_of_tumours_is_refused(wrong, tmp_path):
    with pytest.raises(LungsegError, match="tumours"):
        make_case(0, tumours=wrong)
    with pytest.raises(LungsegError, match="tumours"):
        write_dataset(tmp_path / "set", tumours=wrong)
    assert not (tmp_path / "set").exists()


def test_a_set_without_tumours_is_sound_and_says_so(tmp_path):
    out = write_dataset(tmp_path / "set", cases=2, test_cases=0, seed=1, tumours=0)
    report = decathlon.check(out, workers=1)
    assert not report.faults
    assert any("all training labels are empty" in warning for warning in report.warnings)
    with pytest.raises(LungsegError, match=r"other parameters.*tumours"):
        write_dataset(out, cases=2, test_cases=0, seed=1, tumours=1)


# --- what is painted without a label --------------------------------------------------------------


def test_the_quick_tier_has_none_of_it(monkeypatch):
    def refuse(*_):
        raise AssertionError("the quick tier keeps its voxels from version to version")

    for module, name in (
        (infection, "paint_infection"),
        (bowel, "paint_bowel"),
        (lungs, "draw_hilar_branches"),
        (chest, "_draw_region"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert make_case(3)[1].any()


def test_none_of_it_is_labelled_and_no_tumour_is_hidden_under_it(monkeypatch):
    """Pneumonia is in each of these chests; the solid tumour in its lung still shows."""
    monkeypatch.setattr(infection, "KINDS", {"pneumonia": 0.5, "tuberculosis": 0.5})
    monkeypatch.setattr(
        tumours, "draw_lesion", lambda *a, **k: Lesion("lung", "solid", "round", 20.0)
    )
    for seed in range(3):
        found = synthesise(seed, spacing_mm=COARSE_MM, mix="task06", tumours=1)
        assert label_components(found.label).max() == 1
        assert np.median(found.hu[found.label > 0]) > -150
        assert not synthesise(seed, spacing_mm=COARSE_MM, mix="task06", tumours=0).label.any()


def test_large_vessels_beside_the_hila_are_3_to_12_mm_wide():
    grid = cube(60, 5.0)
    hila = np.array([[-14.0, 14, -47], [-2, 20, 47]])
    anatomy = patient(grid, hila=hila)
    for seed in range(5):
        for drawn in trees.draw_hilar_branches(np.random.default_rng(seed), anatomy):
            assert 8 <= len(drawn) <= 40 and (2 * drawn[:, 6:] >= 3).all()
            assert (2 * drawn[:, 6:] <= 12).all()
            near = np.linalg.norm(drawn[:, None, :3] - hila[None], axis=-1).min(axis=1)
            assert near.max() < 80


@pytest.mark.parametrize("kind", list(infection.KINDS))
def test_infection_lies_in_the_lung_and_has_its_attenuation(kind, monkeypatch):
    grid = cube(80, 2.5)
    lung = np.maximum(-70 - along(grid, 2), along(grid, 2) - 70)
    anatomy = _person_in(
        grid, lung=lung, chest_wall=lung, hila=np.array([[-40.0, 10, -30], [-40, 10, 30]])
    )
    monkeypatch.setattr(infection, "KINDS", {kind: 1.0})
    changed_hu = []
    for seed in range(4):
        canvas = lung_canvas(grid)
        infection.paint_infection(np.random.default_rng(seed), canvas, anatomy)
        changed = np.abs(canvas.hu + 860) > 60
        assert not (changed & (lung > 2)).any(), "it ends at the pleura"
        changed_hu.append(canvas.hu[changed])
    found = np.concatenate(changed_hu)
    assert len(found) > 100 and found.min() >= -1000 and found.max() < 950
    if kind in ("tuberculosis", "abscess"):
        assert (found < -870).any(), "a cavity holds air"
    if kind == "pneumonia":
        assert (np.abs(found - 40) < 60).mean() > 0.05, "consolidated lung is as dense as muscle"


def test_buds_are_some_millimetres_wide_and_leave_lung_between_them():
    from scipy.ndimage import distance_transform_edt

    grid = cube(25, 0.5)
    anatomy = _person_in(grid)
    for seed in range(4):
        canvas = lung_canvas(grid)
        infection._paint_buds(np.random.default_rng(seed), canvas, anatomy, np.zeros(3))
        dense = canvas.hu > -600
        extent = np.ptp(np.argwhere(dense), axis=0) + 1
        assert 1.5 < 2 * 0.5 * distance_transform_edt(dense).max() < 7
        assert dense.sum() < 0.35 * np.prod(extent)


def test_bowel_is_under_the_diaphragm_and_holds_gas_stool_or_contrast():
    grid = cube(150, 5.0)
    organs = {name: filled(grid, 60.0) for name in ("aorta", "inferior_vena_cava")}
    above = along(grid, 0) + 20  # the diaphragm is at -20
    seen = []
    for seed in range(6):
        anatomy = patient(grid, above_diaphragm=above, organs=organs)
        anatomy = replace(anatomy, frame=_frame(grid), person=_person())
        canvas = Canvas(grid, grid, -100.0)
        bowel.paint_bowel(np.random.default_rng(seed), canvas, anatomy)
        changed = np.abs(canvas.hu + 100) > 5
        assert not (changed & (above > 3)).any()
        seen.append(canvas.hu[changed])
    found = np.concatenate(seen)
    assert (found < -900).any() and (found > 100).any() and -1000 < found.min() < found.max() < 700


def _person():
    return SimpleNamespace(dome_mm=(-20.0, -30.0), tissue_hu={"hollow_organ": 40.0})


def _frame(grid):
    from lungseg_utils.phantom.anatomy import Frame
    from lungseg_utils.phantom.person import draw_person

    rng = np.random.default_rng(0)
    person = replace(
        draw_person(rng), dome_mm=(-20.0, -30.0), width=1.0, depth=1.0, height=1.0, rotation_deg=0.0
    )
    return Frame(rng, person, grid)


@pytest.mark.parametrize(("region", "shortest_mm"), [("bases", 100), ("abdomen", 180)])
def test_some_scans_show_only_the_bases_of_the_lungs(region, shortest_mm, monkeypatch):
    monkeypatch.setattr(chest, "_draw_region", lambda rng: region)
    for seed in range(3):
        found = synthesise(seed, spacing_mm=COARSE_MM, mix="broad", tumours=0)
        area = found.lungs.sum(axis=(1, 2))
        assert area[-1] > 0 and area[0] == 0, "it begins in the lungs and ends below them"
        assert len(area) * COARSE_MM[0] > shortest_mm
        assert area.sum() * np.prod(COARSE_MM) < 3e6, "a part of the 4 litres and more"
