"""Tumours of the synthetic chest, drawn, placed, painted and labelled; and their mimics."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_phantom import (
    NO_SEGMENTS,
    NO_TREES,
    PLAIN,
    along,
    cube,
    filled,
    lung_canvas,
    patient,
)

from lungseg_utils.phantom import (
    atelectasis,
    fields,
    infection,
    lungs,
    mimics,
    synthesise,
    tumour_painting,
    tumours,
)
from lungseg_utils.phantom.anatomy.thorax import spine
from lungseg_utils.phantom.tumours import Lesion


def _seeds(count):
    return (np.random.default_rng(seed) for seed in range(count))


def _paint(lesion, seed, grid):
    """Paint a tumour in the middle of a lung; return its shape, its outline and its HU."""
    canvas = lung_canvas(grid)
    shape = tumour_painting.draw_shape(np.random.default_rng(seed), canvas, lesion)
    rng = np.random.default_rng(seed)
    box, outline = tumour_painting.paint_lesion(rng, canvas, lesion, patient(grid), NO_TREES)
    return shape, outline, canvas.hu[box]


# --- drawing and placing --------------------------------------------------------------------------


def test_tumour_sizes_are_those_of_task06():
    rng = np.random.default_rng(0)
    sizes = [tumours.draw_lesion(rng).volume_ml for _ in range(2000)]
    lower, median, upper = np.percentile(sizes, [25, 50, 75])
    assert 2 < lower < 4 and 4 < median < 7 and 12 < upper < 22
    assert min(sizes) >= 0.74 and max(sizes) <= 370


def test_half_of_the_further_lesions_of_a_scan_are_nodules():
    rng = np.random.default_rng(0)
    sizes = np.array([tumours.draw_lesion(rng, first=False).volume_ml for _ in range(2000)])
    # a nodule of 12 mm has 0.9 mL, and some tumours are as small
    assert 0.5 <= (sizes < 0.91).mean() < 0.65
    assert sizes.min() > 0.11


def test_a_small_lesion_lies_in_a_lung_and_a_large_one_anywhere():
    rng = np.random.default_rng(1)
    drawn = [tumours.draw_lesion(rng, "broad") for _ in range(2000)]
    small = {lesion.site for lesion in drawn if lesion.volume_ml < tumours.SMALL_ML}
    assert small == {"lung", "pleura", "vessel"}
    assert {lesion.site for lesion in drawn} == set(tumours.SITES)


@pytest.mark.parametrize("near", ["chest_wall", "above_diaphragm"])
def test_a_pleural_tumour_lies_on_the_chest_wall_or_on_the_diaphragm(near):
    grid = cube(80, 4.0)
    lung = -along(grid, 2)
    anatomy = patient(grid, lung, **{near: lung if near == "chest_wall" else -lung})
    lesion = Lesion("pleura", "solid", "round", 4.0)
    for rng in _seeds(8):
        centre = tumours.place_lesion(rng, lesion, anatomy, NO_TREES, "broad")
        assert abs(centre[2] - 0.75 * lesion.radius_mm) < 3
    for mix in ("easy", "task06"):  # on the wall alone
        depths = [tumours.place_lesion(rng, lesion, anatomy, NO_TREES, mix)[2] for rng in _seeds(8)]
        assert (max(depths) < 0.75 * lesion.radius_mm + 3) == (near == "chest_wall")


@pytest.mark.parametrize("tree", ["airways", "arteries", "veins"])
def test_a_small_nodule_keeps_clear_of_bronchi_and_large_vessels_and_of_the_hilum(tree):
    grid = cube(80, 4.0)
    tubes = np.array([[-80.0, 0, x, 80, 0, x, 3, 3] for x in range(-80, 81, 40)])
    lesion = Lesion("lung", "solid", "round", 1.0)
    for rng in _seeds(30):
        trees = replace(NO_TREES, **{tree: tubes})
        centre = tumours.place_lesion(rng, lesion, patient(grid), trees)
        clear = min(np.hypot(centre[1], centre[2] - x) for x in range(-80, 81, 40))
        assert clear > lesion.radius_mm + 3


def test_a_lesion_that_is_to_lie_on_a_vessel_does():
    grid = cube(80, 4.0)
    ends = np.array([[20.0, 20, 20], [-20, -20, -20]])
    trees = replace(NO_TREES, veins=np.hstack([np.zeros((2, 3)), ends, np.ones((2, 2))]))
    lesion = Lesion("vessel", "solid", "round", 4.0)
    for rng in _seeds(8):
        centre = tumours.place_lesion(rng, lesion, patient(grid), trees)
        assert np.linalg.norm(ends - centre, axis=1).min() < 2 * lesion.radius_mm


@pytest.mark.parametrize("volume_ml", [2.0, 150.0])
def test_a_hilar_tumour_lies_mostly_in_the_lung(volume_ml):
    """What lies wholly in the mediastinum, among tissue of its own HU, nobody could outline."""
    grid = cube(80, 4.0)
    anatomy = patient(grid, -along(grid, 2))
    lesion = Lesion("hilum", "solid", "round", volume_ml)
    for rng in _seeds(8):
        centre = tumours.place_lesion(rng, lesion, anatomy, NO_TREES)
        assert centre[2] > 0.25 * lesion.radius_mm
        assert np.linalg.norm(centre) < 30 + 0.8 * lesion.radius_mm


def test_without_lung_there_is_no_place():
    grid = cube(40, 4.0)
    lesion = Lesion("lung", "solid", "round", 1.0)
    anatomy = patient(grid, filled(grid, 5.0))
    assert tumours.place_lesion(np.random.default_rng(0), lesion, anatomy, NO_TREES) is None


# --- painting and labelling -----------------------------------------------------------------------


def test_what_the_pleura_cuts_off_a_label_is_dropped():
    coverage = np.zeros((9, 9, 20), np.float32)
    coverage[2:7, 2:7, 2:8], coverage[4, 4, 12:14], coverage[:, :, 8:12] = 1, 0.9, 0.3
    kept = tumour_painting._largest_part(coverage)
    assert (kept[..., :12] == coverage[..., :12]).all() and not kept[..., 12:].any()
    assert tumour_painting._largest_part(kept) is kept


def test_no_reader_follows_spicules_and_the_label_ends_where_a_tumour_fades():
    grid = cube(30, 1.0)
    lesion = Lesion("lung", "solid", "spiculated", 4.0)
    for seed in range(6):
        shape, outline, hu = _paint(lesion, seed, grid)
        label, body = outline > 0.5, shape.body
        assert (shape.whole <= body).all() and (shape.whole < 0).sum() > (body < 0).sum()
        assert label[body < 0].all() and not label[body > 3].any()
        beyond = np.median(hu[label & (body > 0)])
        assert beyond > -800, "what lies beyond the border's middle still shows"


@pytest.mark.parametrize(
    ("texture", "low", "high"),
    [
        ("solid", -60, 120),
        ("calcified", 80, 1000),
        ("ground-glass", -700, -250),
        ("part-solid", -650, 0),
        ("cavitated", -700, 0),
        ("thin-walled", -950, -300),
    ],
)
def test_a_tumour_of_each_texture_has_its_attenuation(texture, low, high):
    medians = []
    for seed in range(8):
        lesion = Lesion("lung", texture, "round", 4.0)
        _, cover, hu = _paint(lesion, seed, cube(30, 1.5))
        medians.append(np.median(hu[cover > 0.9]))
    assert low < np.median(medians) < high


def test_ground_glass_that_is_a_tumour_ends_sharply_where_infection_fades():
    """2 mm outside its border there is lung."""
    grid = cube(25, 1.0)
    lesion = Lesion("lung", "ground-glass", "round", 4.0)
    infection = mimics.Opacity(np.full(3, 10.0), 0.0, 400, 0, edge_mm=mimics.FADING_MM)

    def outside(body, rise, deep_mm):
        return rise[np.abs(body - 2) < 0.5].mean() / rise[body < -deep_mm].mean()

    ends, fades = [], []
    for seed in range(12):
        shape, _, hu = _paint(lesion, seed, grid)
        ends.append(outside(shape.body, hu + 860, 4))
        canvas, rng = lung_canvas(grid), np.random.default_rng(seed)
        box, _ = mimics.paint_opacity(rng, canvas, patient(grid), np.zeros(3), infection)
        z, y, x = canvas.fine.mesh(box)
        fades.append(outside(np.sqrt(z**2 + y**2 + x**2) - 10, canvas.hu[box] + 860, 6))
    assert np.mean(ends) < 0.1 and np.mean(fades) > 0.25


def test_the_label_ends_where_the_tumour_is_hardly_denser_than_lung_and_sooner_in_ground_glass():
    grid = cube(25, 1.0)
    beyond, rises = {}, []
    for texture in ("solid", "ground-glass"):
        depths = []
        for seed in range(12):
            lesion = Lesion("lung", texture, "round", 4.0)
            shape, outline, hu = _paint(lesion, seed, grid)
            depths.append(shape.body[outline > 0.5].max())
            rises.append((hu + 860)[np.abs(outline - 0.5) < 0.2].mean())
        beyond[texture] = np.mean(depths)
    assert 0 < beyond["ground-glass"] < beyond["solid"] < 2
    assert min(rises) > 20 and max(rises) < 330


def test_a_cavity_has_a_wall_all_round():
    lesion = Lesion("lung", "cavitated", "lobulated", 8.0)
    for seed in range(12):
        shape, _, hu = _paint(lesion, seed, cube(25, 1.0))
        assert np.percentile(hu[np.abs(shape.body + 1) < 0.3], 5) > -600


def test_a_central_tumour_lies_partly_in_the_mediastinum_and_is_hardly_brighter(monkeypatch):
    central = Lesion("central", "solid", "round", 25.0)
    painted, paint = [], tumour_painting.paint_lesion

    def spy(rng, canvas, lesion, anatomy, trees):
        painted.append((canvas, anatomy))
        return paint(rng, canvas, lesion, anatomy, trees)

    monkeypatch.setattr(tumours, "draw_lesion", lambda *a, **k: central)
    monkeypatch.setattr(tumour_painting, "paint_lesion", spy)
    inside, brighter = [], []
    for seed in range(80010, 80016):
        chest = synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), mix="broad", slabs=1)
        label, (canvas, anatomy) = chest.label > 0, painted[-1]
        inside.append(chest.lungs[label].mean())
        beyond = np.median(chest.hu[label & (chest.lungs == 0)])
        brighter.append(beyond - chest.person.tissue_hu["lymph_node"])
        for spared in (anatomy.spared, spine(anatomy.frame)):
            deep = canvas.interpolate(spared) < -4
            assert not (label & deep).any(), "heart, great vessels and spine"
    assert 0.3 < np.mean(inside) < 0.85 and min(inside) > 0.2
    assert -45 < np.median(brighter) < 25


def test_some_central_tumours_grow_as_a_sleeve_round_large_tubes_near_them():
    grid = cube(40, 1.0)
    canvas = lung_canvas(grid)
    lesion = Lesion("central", "solid", "round", 8.0)  # a radius of 12 mm
    tubes = np.array([[0.0, 0, 0, 30, 0, 0, 2, 2], [0, 8, 0, 0, 28, 0, 1, 1]])  # one is thin
    shape = tumour_painting.draw_shape(np.random.default_rng(0), canvas, lesion)
    along_tube, along_thin_one, beyond = (40 + 16, 40, 40), (40, 40 + 17, 40), (40 + 20, 40, 40)
    start = [side.start for side in shape.box]
    assert shape.body[tuple(np.subtract(along_tube, start))] > 0
    for rng in _seeds(8):
        trees = replace(NO_TREES, veins=tubes)
        spread = tumour_painting._spread(rng, canvas, lesion, shape, trees)
        grown = [
            spread.body[tuple(np.subtract(p, start))] for p in (along_tube, along_thin_one, beyond)
        ]
        assert grown[0] < 0 < grown[1] and grown[2] > 0
        alone = tumour_painting._spread(rng, canvas, lesion, shape, NO_TREES)
        assert np.array_equal(alone.body < 0, shape.body < 0)


def test_a_central_tumour_is_dense_all_through_or_hollow():
    rng = np.random.default_rng(3)
    drawn = [tumours.draw_lesion(rng, "broad") for _ in range(2000)]
    textures = [lesion.texture for lesion in drawn if lesion.site == "central"]
    assert not set(textures) & set(tumours.FAINT)
    assert 0.2 < textures.count("cavitated") / len(textures) < 0.4, "a tenth if only drawn so"


@pytest.mark.parametrize("draw", [0.2, 0.7])
def test_large_vessels_and_bronchi_run_on_through_a_central_tumour_or_end(draw):
    grid = cube(20, 1.0)
    canvas, box = fields.Canvas(grid, grid, 40.0), grid.box([-15] * 3, [15] * 3)
    trees = tumour_painting.Trees(
        arteries=np.array([[-30.0, 6, 0, 30, 6, 0, 3, 3]]),
        veins=NO_SEGMENTS,
        airways=np.array([[-30.0, -6, 0, 30, -6, 0, 3, 3], [-30, 0, 9, 30, 0, 9, 1, 1]]),
    )
    rng = SimpleNamespace(random=lambda: draw)
    cover = np.ones(canvas.hu[box].shape, np.float32)
    tumour_painting._spare_tubes(rng, canvas, PLAIN, trees, box, cover)
    found = canvas.hu[20, 26, 20], canvas.hu[20, 14, 20], canvas.hu[20, 20, 29]
    assert found == ((300, -975, 40) if draw < 0.5 else (40, 40, 40))
    assert canvas.hu[0, 14, 20] == 40, "what lies beside the tumour stays as it is"


# --- mimics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_bulge_is_low_and_wide_whichever_way_the_wall_faces(axis):
    grid = cube(30, 1.0)
    into_wall = along(grid, axis)  # the lung is where it is negative
    anatomy = patient(grid, into_wall)
    bulge = mimics.Bulge(np.full(3, 12.0), 4.0, 12.0, 60.0)
    for rng in _seeds(4):
        canvas = lung_canvas(grid)
        mimics.paint_bulge(rng, canvas, anatomy, np.zeros(3), bulge)
        dense = np.argwhere(canvas.hu > -400)
        size = np.ptp(dense, axis=0) + 1
        assert -dense.min(axis=0)[axis] + 30 <= 5 and (np.delete(size, axis) >= 14).all()
        assert not (canvas.hu[into_wall > 4] > -860).any(), "it lies on the wall, not in it"
    before = canvas.hu.copy()
    mimics.paint_bulge(np.random.default_rng(0), canvas, anatomy, None, bulge)
    assert (canvas.hu == before).all()


def test_bulges_rise_less_than_they_are_wide_beside_the_spine_behind_the_sternum_and_as_plaques(
    monkeypatch,
):
    drawn = []
    monkeypatch.setattr(
        mimics,
        "paint_bulge",
        lambda rng, canvas, anatomy, centre, bulge: drawn.append((centre, bulge)),
    )
    for seed in range(80020, 80024):
        synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), slabs=1)
    centres = np.array([centre for centre, _ in drawn if centre is not None])
    assert all(bulge.height_mm <= 0.67 * min(bulge.base_mm) for _, bulge in drawn)
    assert (centres[:, 1] > 25).any() and (centres[:, 1] < -20).any()


def test_overlapping_ground_glass_of_an_infection_does_not_turn_solid(monkeypatch):
    grid = cube(40, 4.0)
    anatomy = patient(grid, filled(grid, -40.0))
    seen = []
    monkeypatch.setattr(mimics, "paint_opacity", lambda *a: seen.append(a[-1]))
    for rng in _seeds(60):
        mimics.paint_opacities(rng, lung_canvas(grid), anatomy, easy=False)
    patches = [opacity for opacity in seen if opacity.edge_mm == mimics.FADING_MM]
    assert len(patches) > 10 and all(opacity.most_hu == -300 for opacity in patches)


def test_small_bronchi_stand_out_in_consolidated_lung_and_only_there(monkeypatch):
    painted = []

    def consolidate(rng, canvas, anatomy, *, easy):
        centre = anatomy.hila[0] + np.array([-15, 10, -28])
        whole = mimics.Opacity(np.full(3, 32.0), 0.2, 900, 40, 45.0)
        painted.append(mimics.paint_opacity(rng, canvas, anatomy, centre, whole))
        return painted[-1]

    def scan(thinnest_mm):
        monkeypatch.setattr(lungs, "BRONCHOGRAM_MM", thinnest_mm)
        return synthesise(70003, spacing_mm=(2.5, 2.5, 2.5), slabs=1, tumours=0).hu

    monkeypatch.setattr(mimics, "paint_opacities", consolidate)
    for module, name in ((infection, "paint_infection"), (atelectasis, "paint_scars")):
        monkeypatch.setattr(module, name, lambda *_: [])
    usual_mm = lungs.BRONCHOGRAM_MM
    darker = scan(100.0) - scan(usual_mm) > 150
    box, cover = painted[0]
    assert 0.005 < darker[box][cover > 0.7].mean() < 0.15
    assert darker[box][cover > 0.3].sum() > 0.9 * darker.sum()


def test_scars_are_airless_lung_without_a_label_in_which_bronchi_stay_open(monkeypatch):
    painted, paint = [], atelectasis.paint_scars
    hu, changed, depth = [], [], []

    def spy(rng, canvas, anatomy):
        before = canvas.hu.copy()
        painted.append(paint(rng, canvas, anatomy))
        changed.append(canvas.hu - before > 650)
        depth.append(canvas.interpolate(anatomy.lung)[changed[-1]])
        return painted[-1]

    monkeypatch.setattr(atelectasis, "paint_scars", spy)
    monkeypatch.setattr(tumours, "place_lesion", lambda *a: None)
    for seed in range(90024, 90048):
        chest = synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), mix="broad")
        hu += [chest.hu] * (len(painted) - len(hu))
        assert not chest.label.any()
    assert 3 <= len(painted) <= 13, "three chests in ten"
    assert all(part.max(initial=-9) < 3 for part in depth), "in the lungs only"
    dense = np.concatenate([scan[part] for scan, part in zip(hu, changed)])
    assert -60 < np.median(dense) < 90
    bronchi = [scan[box][cover > 0.9] for scan, scars in zip(hu, painted) for box, cover in scars]
    assert 0.005 < np.mean(np.concatenate(bronchi) < -300) < 0.3
