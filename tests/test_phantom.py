"""The synthetic chest CT: reproducible, calibrated on real chests, and written as a Decathlon set."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lungseg_utils import volume
from lungseg_utils.phantom import (
    airless,
    anatomy,
    distractors,
    fields,
    growth,
    lesions,
    make_case,
    scanner,
    synthesise,
    tissue,
    trees,
)
from lungseg_utils.phantom.dataset import write_dataset
from lungseg_utils.phantom.person import draw_person, with_less_contrast
from lungseg_utils.phantom.statistics import REAL, measure_lungs, measure_tumours
from lungseg_utils.runtime import LungsegError


@pytest.fixture(scope="module")
def chests():
    return [synthesise(seed, spacing_mm=(3.0, 2.5, 2.5)) for seed in range(900, 912)]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("phantom") / "set", cases=2, test_cases=1, seed=3)


def _hashes(folder):
    return {
        p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def _only_lung(half_mm, step_mm):
    """A cube of lung round (0, 0, 0), and what the painting of a tumour asks of a patient."""
    grid = fields.Grid(
        (-float(half_mm),) * 3, (step_mm,) * 3, (int(2 * half_mm / step_mm) + 1,) * 3
    )
    deep = np.full(grid.shape, -40.0, np.float32)
    return grid, SimpleNamespace(
        lungs=(deep, deep),
        sample=lambda field, box: field[box],
        person=SimpleNamespace(blood={"aorta": 40.0}),
    )


def _paint(lesion, seed, grid, world):
    """Paint a tumour in the middle; give the distances from its body without and with spicules, its outline and HU."""
    canvas = fields.Canvas(grid, grid, -860.0)
    _, body, whole = growth.shape(np.random.default_rng(seed), canvas, lesion, np.zeros(3))
    box, outline = growth.paint(np.random.default_rng(seed), canvas, lesion, np.zeros(3), world)
    return body, whole, outline, canvas.hu[box]


# --- one case --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others():
    first, again, other = (make_case(seed) for seed in (5, 5, 6))
    assert np.array_equal(first[0].hu, again[0].hu) and np.array_equal(first[1], again[1])
    assert first[0].hu.shape != other[0].hu.shape or not np.array_equal(first[0].hu, other[0].hu)


def test_a_quick_case_is_a_whole_chest_of_int16_with_a_tumour_that_3_mm_voxels_show():
    scan, label = make_case(7)
    assert isinstance(scan, volume.Volume) and scan.hu.dtype == np.int16 and label.dtype == np.uint8
    assert label.shape == scan.hu.shape and set(np.unique(label)) == {0, 1}
    assert all(2.5 <= step <= 3.3 for step in scan.spacing_mm)
    assert label.sum() * np.prod(scan.spacing_mm) > 500  # mm³
    assert np.allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.spacing_mm)


def test_an_unknown_tier_is_refused():
    with pytest.raises(LungsegError, match="tier.*quick, medium, full"):
        make_case(0, tier="huge")


# --- calibration -----------------------------------------------------------------------------------------------


def test_lungs_are_as_large_and_as_dark_as_real_ones(chests):
    rows = [measure_lungs(chest) for chest in chests]
    low, high = REAL["lung volume (L)"]
    assert low - 1 <= np.median([row["lung volume (L)"] for row in rows]) <= high + 1
    medians = np.median([row["lung HU"] for row in rows], axis=0)
    deep, shallow = REAL["lung HU, deep inspiration"], REAL["lung HU, shallow inspiration"]
    assert all(
        a - 30 <= value <= b + 30 for a, value, b in zip(deep, medians, shallow, strict=True)
    )


def test_vessels_fill_as_much_of_the_lungs_as_in_real_chests(chests):
    low, high = REAL["lung above -500 HU (%)"]
    assert (
        low
        <= np.median([measure_lungs(chest)["lung above -500 HU (%)"] for chest in chests])
        <= high
    )


def test_tumours_have_the_core_and_the_border_of_real_ones(chests):
    rows = [row for chest in chests for row in measure_tumours(chest)]
    for name in ("nodule core (HU)", "inside border (HU)", "outside border (HU)"):
        assert (
            REAL[name][0] - 100 <= np.median([row[name] for row in rows]) <= REAL[name][-1] + 100
        ), name


def test_tumour_sizes_are_those_of_task06():
    rng = np.random.default_rng(0)
    tumours = [lesions.draw_lesion(rng).volume_ml for _ in range(2000)]
    assert (
        2 < np.percentile(tumours, 25) < 4
        and 4 < np.median(tumours) < 7
        and 12 < np.percentile(tumours, 75) < 22
    )
    assert min(tumours) >= 0.74 and max(tumours) <= 370


def test_half_of_the_further_lesions_of_a_scan_are_nodules():
    rng = np.random.default_rng(0)
    sizes = np.array([lesions.draw_lesion(rng, first=False).volume_ml for _ in range(2000)])
    assert (
        0.5 <= (sizes < 0.91).mean() < 0.65
    )  # a nodule of 12 mm has 0.9 mL, and some tumours are as small
    assert sizes.min() > 0.11


def test_what_the_pleura_cuts_off_a_label_is_dropped():
    coverage = np.zeros((9, 9, 20), np.float32)
    coverage[2:7, 2:7, 2:8], coverage[4, 4, 12:14], coverage[:, :, 8:12] = 1, 0.9, 0.3
    kept = growth._largest_part(coverage)
    assert (kept[..., :12] == coverage[..., :12]).all() and not kept[..., 12:].any()
    assert growth._largest_part(kept) is kept


def test_no_reader_follows_spicules_and_the_label_ends_where_a_tumour_fades():
    grid, world = _only_lung(30, 1.0)
    for seed in range(6):
        body, whole, outline, hu = _paint(
            lesions.Lesion("lung", "solid", "spiculated", 4.0), seed, grid, world
        )
        label = outline > 0.5
        assert (whole <= body).all() and (whole < 0).sum() > (body < 0).sum()
        assert label[body < 0].all() and not label[body > 3].any()
        assert np.median(hu[label & (body > 0)]) > -800, (
            "what lies beyond the border's middle still shows"
        )


def test_every_chest_has_a_labelled_tumour_of_a_known_kind(chests):
    for chest in chests:
        assert chest.lesions and chest.label.any()
        assert {lesion.site for lesion in chest.lesions} <= set(lesions.SITES)


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
    grid, world = _only_lung(30, 1.5)
    medians = []
    for seed in range(8):
        _, _, cover, hu = _paint(lesions.Lesion("lung", texture, "round", 4.0), seed, grid, world)
        medians.append(np.median(hu[cover > 0.9]))
    assert low < np.median(medians) < high


def test_ground_glass_that_is_a_tumour_ends_sharply_where_infection_fades():
    """2 mm outside its border there is lung."""
    grid, world = _only_lung(25, 1.0)
    tumours, infections = [], []
    for seed in range(12):
        body, _, _, hu = _paint(
            lesions.Lesion("lung", "ground-glass", "round", 4.0), seed, grid, world
        )
        rise = hu + 860
        tumours.append((rise[np.abs(body - 2) < 0.5].mean()) / rise[body < -4].mean())
        canvas, rng = fields.Canvas(grid, grid, -860.0), np.random.default_rng(seed)
        box, _ = distractors.haze(
            rng, canvas, world, np.zeros(3), (10, 10, 10), 0.0, 400, 0, edge=distractors.FADING_MM
        )
        z, y, x = canvas.fine.mesh(box)
        body, rise = np.sqrt(z**2 + y**2 + x**2) - 10, canvas.hu[box] + 860
        infections.append((rise[np.abs(body - 2) < 0.5].mean()) / rise[body < -6].mean())
    assert np.mean(tumours) < 0.1 and np.mean(infections) > 0.25


def test_the_label_ends_where_the_tumour_is_hardly_denser_than_lung_and_sooner_in_ground_glass():
    grid, world = _only_lung(25, 1.0)
    beyond, rises = {}, []
    for texture in ("solid", "ground-glass"):
        depths = []
        for seed in range(12):
            body, _, outline, hu = _paint(
                lesions.Lesion("lung", texture, "round", 4.0), seed, grid, world
            )
            depths.append(body[outline > 0.5].max())
            rises.append((hu + 860)[np.abs(outline - 0.5) < 0.2].mean())
        beyond[texture] = np.mean(depths)
    assert 0 < beyond["ground-glass"] < beyond["solid"] < 2
    assert min(rises) > 20 and max(rises) < 330


def test_a_cavity_has_a_wall_all_round():
    grid, world = _only_lung(25, 1.0)
    for seed in range(12):
        body, _, _, hu = _paint(
            lesions.Lesion("lung", "cavitated", "lobulated", 8.0), seed, grid, world
        )
        assert np.percentile(hu[np.abs(body + 1) < 0.3], 5) > -600


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mound_is_low_and_wide_whichever_way_the_wall_faces(axis):
    grid = fields.Grid((-30.0,) * 3, (1.0,) * 3, (61,) * 3)
    into_wall = np.broadcast_to(grid.mesh()[axis], grid.shape).astype(
        np.float32
    )  # the lung is where it is negative
    world = SimpleNamespace(lungs=(into_wall, into_wall), sample=lambda field, box: field[box])
    for seed in range(4):
        canvas = fields.Canvas(grid, grid, -860.0)
        distractors.mound(
            np.random.default_rng(seed), canvas, world, np.zeros(3), (12, 12, 12), 4.0, 12.0, 60.0
        )
        dense = np.argwhere(canvas.hu > -400)
        size = np.ptp(dense, axis=0) + 1
        assert -dense.min(axis=0)[axis] + 30 <= 5 and (np.delete(size, axis) >= 14).all()
        assert not (canvas.hu[into_wall > 4] > -860).any(), "it lies on the wall, not in it"
    before = canvas.hu.copy()
    distractors.mound(np.random.default_rng(0), canvas, world, None, (12, 12, 12), 4.0, 12.0, 60.0)
    assert (canvas.hu == before).all()


def test_mounds_rise_less_than_they_are_wide_beside_the_spine_behind_the_sternum_and_as_plaques(
    monkeypatch,
):
    drawn = []
    monkeypatch.setattr(
        distractors,
        "mound",
        lambda rng, canvas, world, centre, base, high, slope, hu: drawn.append(
            (centre, min(base), high)
        ),
    )
    for seed in range(80020, 80024):
        synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), slabs=1)
    centres = np.array([centre for centre, _, _ in drawn if centre is not None])
    assert all(high <= 0.67 * base for _, base, high in drawn)
    assert (centres[:, 1] > 25).any() and (centres[:, 1] < -20).any()


def test_overlapping_ground_glass_of_an_infection_does_not_turn_solid(monkeypatch):
    grid, world = _only_lung(40, 4.0)
    world.in_view, world.shell, world.coarse = np.ones(grid.shape, bool), world.lungs[0], grid
    seen = []
    monkeypatch.setattr(distractors, "haze", lambda *a, **how: seen.append((a[6], how)))
    for seed in range(60):
        distractors.paint_opacities(
            np.random.default_rng(seed), fields.Canvas(grid, grid, -860.0), world, kind=False
        )
    patches = [how for rise, how in seen if how["edge"] == distractors.FADING_MM]
    assert len(patches) > 10 and all(how["most"] == -300 for how in patches)


@pytest.mark.parametrize("near", ["shell", "dome"])
def test_a_pleural_tumour_lies_on_the_chest_wall_or_on_the_diaphragm(near):
    grid = fields.Grid((-80.0,) * 3, (4.0,) * 3, (41,) * 3)
    lung = np.broadcast_to(-grid.mesh()[2], grid.shape)
    surfaces = {"shell": np.full(grid.shape, -90.0), "dome": np.full(grid.shape, 90.0)}
    surfaces[near] = lung if near == "shell" else -lung
    world = SimpleNamespace(
        coarse=grid,
        lungs=(lung, lung),
        hila=np.zeros((2, 3)),
        in_view=np.ones(grid.shape, bool),
        vessels=np.empty((0, 8)),
        airways=np.empty((0, 8)),
        **surfaces,
    )
    lesion = lesions.Lesion("pleura", "solid", "round", 4.0)
    for seed in range(8):
        centre = lesions.place(np.random.default_rng(seed), lesion, world, "broad")
        assert abs(centre[2] - 0.75 * lesion.radius_mm) < 3
    for mix in ("kind", "task06"):  # on the wall alone
        depths = [
            lesions.place(np.random.default_rng(seed), lesion, world, mix)[2] for seed in range(8)
        ]
        assert (max(depths) < 0.75 * lesion.radius_mm + 3) == (near == "shell")


def test_a_small_nodule_keeps_clear_of_bronchi_and_large_vessels_and_of_the_hilum():
    grid = fields.Grid((-80.0,) * 3, (4.0,) * 3, (41,) * 3)
    deep = np.full(grid.shape, -90.0)
    tubes = np.array([[-80.0, 0, x, 80, 0, x, 3, 3] for x in range(-80, 81, 40)])
    for kind in ("airways", "vessels"):
        world = SimpleNamespace(
            coarse=grid,
            lungs=(deep, deep),
            shell=deep,
            dome=-deep,
            hila=np.zeros((2, 3)),
            in_view=np.ones(grid.shape, bool),
            airways=tubes[:0],
            vessels=tubes[:0],
        )
        setattr(world, kind, tubes)
        lesion = lesions.Lesion("lung", "solid", "round", 1.0)
        for seed in range(30):
            centre = lesions.place(np.random.default_rng(seed), lesion, world)
            clear = min(np.hypot(centre[1], centre[2] - x) for x in range(-80, 81, 40))
            assert clear > lesion.radius_mm + 3
    rng = np.random.default_rng(1)
    drawn = [lesions.draw_lesion(rng, "broad") for _ in range(2000)]
    small = {lesion.site for lesion in drawn if lesion.volume_ml < lesions.SMALL_ML}
    assert small == {"lung", "pleura", "vessel"} and {lesion.site for lesion in drawn} == set(
        lesions.SITES
    )


@pytest.mark.parametrize("volume_ml", [2.0, 150.0])
def test_a_hilar_tumour_lies_mostly_in_the_lung(volume_ml):
    """What lies wholly in the mediastinum, among tissue of its own brightness, nobody could outline."""
    grid = fields.Grid((-80.0,) * 3, (4.0,) * 3, (41,) * 3)
    into_mediastinum = np.broadcast_to(-grid.mesh()[2], grid.shape)
    world = SimpleNamespace(
        coarse=grid,
        lungs=(into_mediastinum, into_mediastinum),
        shell=np.full(grid.shape, -90.0),
        dome=np.full(grid.shape, 90.0),
        hila=np.zeros((2, 3)),
        in_view=np.ones(grid.shape, bool),
        vessels=np.empty((0, 8)),
    )
    lesion = lesions.Lesion("hilum", "solid", "round", volume_ml)
    for seed in range(8):
        centre = lesions.place(np.random.default_rng(seed), lesion, world)
        assert (
            centre[2] > 0.25 * lesion.radius_mm
            and np.linalg.norm(centre) < 30 + 0.8 * lesion.radius_mm
        )


def test_a_central_tumour_lies_partly_in_the_mediastinum_and_is_hardly_brighter(monkeypatch):
    central = lesions.Lesion("central", "solid", "round", 25.0)
    monkeypatch.setattr(lesions, "draw_lesion", lambda *a, **k: central)
    worlds, place = [], lesions.place
    monkeypatch.setattr(
        lesions,
        "place",
        lambda rng, lesion, world, mix: worlds.append(world) or place(rng, lesion, world, mix),
    )
    inside, brighter = [], []
    for seed in range(80010, 80016):
        chest = synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), mix="broad", slabs=1)
        label, world = chest.label > 0, worlds[-1]
        inside.append(chest.lungs[label].mean())
        brighter.append(
            np.median(chest.hu[label & (chest.lungs == 0)]) - chest.person.organs["node"]
        )
        for spared in (world.spared, anatomy.spine(world.frame)):
            assert not (label & (world.sample(spared, fields.WHOLE) < -4)).any(), (
                "heart, great vessels and spine"
            )
    assert 0.3 < np.mean(inside) < 0.85 and min(inside) > 0.2
    assert abs(np.median(brighter)) < 25


@pytest.mark.parametrize("draw", [0.2, 0.7])
def test_large_vessels_and_bronchi_run_on_through_a_central_tumour_or_end(draw):
    grid = fields.Grid((-20.0,) * 3, (1.0,) * 3, (41,) * 3)
    canvas, box = fields.Canvas(grid, grid, 40.0), grid.box([-15] * 3, [15] * 3)
    world = SimpleNamespace(
        vessels=np.array([[-30.0, 6, 0, 30, 6, 0, 3, 3]]),
        airways=np.array([[-30.0, -6, 0, 30, -6, 0, 3, 3], [-30, 0, 9, 30, 0, 9, 1, 1]]),
        person=SimpleNamespace(blood={"right": 300.0}),
    )
    rng = SimpleNamespace(random=lambda: draw)
    growth._spare_tubes(rng, canvas, world, box, np.ones(canvas.hu[box].shape, np.float32))
    found = canvas.hu[20, 26, 20], canvas.hu[20, 14, 20], canvas.hu[20, 20, 29]
    assert found == ((300, -975, 40) if draw < 0.5 else (40, 40, 40))
    assert canvas.hu[0, 14, 20] == 40, "what lies beside the tumour stays as it is"


def test_small_bronchi_stand_out_in_consolidated_lung_and_only_there(monkeypatch):
    painted, paint = [], distractors.paint_opacities
    monkeypatch.setattr(
        distractors,
        "paint_opacities",
        lambda *a, **k: painted.append(paint(*a, **k)) or painted[-1],
    )

    def scan(thinnest_mm):
        monkeypatch.setattr(tissue, "BRONCHOGRAM_MM", thinnest_mm)
        return synthesise(70003, spacing_mm=(2.5, 2.5, 2.5), slabs=1).hu

    usual_mm = tissue.BRONCHOGRAM_MM
    darker = scan(100.0) - scan(usual_mm) > 150
    assert painted[0] is not None, "this seed is to have a consolidation"
    box, cover = painted[0]
    assert 0.005 < darker[box][cover > 0.7].mean() < 0.15
    assert darker[box][cover > 0.3].sum() > 0.9 * darker.sum()


def test_scars_are_airless_lung_without_a_label_in_which_bronchi_stay_open(monkeypatch):
    painted, paint = [], airless.paint_scars

    def spy(rng, canvas, world):
        before = canvas.hu.copy()
        painted.append(paint(rng, canvas, world))
        changed.append(canvas.hu - before > 650)
        depth.append(world.sample(np.minimum(*world.lungs), fields.WHOLE)[changed[-1]])
        return painted[-1]

    monkeypatch.setattr(airless, "paint_scars", spy)
    monkeypatch.setattr(lesions, "place", lambda *a: None)
    hu, changed, depth = [], [], []
    for seed in range(90000, 90024):
        chest = synthesise(seed, spacing_mm=(4.0, 4.0, 4.0), mix="broad")
        hu += [chest.hu] * (len(painted) - len(hu))
        assert not chest.label.any()
    assert 3 <= len(painted) <= 13, "three chests in ten"
    assert all(part.max(initial=-9) < 3 for part in depth), "in the lungs only"
    dense = np.concatenate([scan[part] for scan, part in zip(hu, changed)])
    assert -60 < np.median(dense) < 90
    bronchi = [scan[box][cover > 0.9] for scan, scars in zip(hu, painted) for box, cover in scars]
    assert 0.005 < np.mean(np.concatenate(bronchi) < -300) < 0.3


def test_slices_much_thicker_than_wide_are_painted_in_thinner_ones(monkeypatch):
    """Else a vessel of 4 mm, thin beside the slice, would be drawn one voxel of 0.7 mm wide."""
    seen = []
    monkeypatch.setattr(
        scanner, "average_slices", lambda hu, slabs: seen.append(slabs) or hu[::slabs]
    )
    for spacing_mm in ((2.0, 2.0, 2.0), (3.0, 1.0, 1.0), (5.0, 2.0, 2.0)):
        synthesise(3, spacing_mm=spacing_mm, shape=(12, 40, 40))
    assert seen[::2] == [1, 2, 2]


def test_three_aortas_in_ten_are_wide_and_bulge_to_the_left_and_none_of_a_kind_patient():
    frame = SimpleNamespace(tube=lambda points, radii: (points, radii))
    usual, radii = anatomy._aorta(frame, None, 1.0, (0, 0))
    drawn = [anatomy._aorta(frame, np.random.default_rng(seed), 1.0, (0, 0)) for seed in range(200)]
    wide = [(points, widths) for points, widths in drawn if not np.array_equal(widths, radii)]
    assert 40 < len(wide) < 80
    assert all((points >= usual).all() and points[6, 2] > usual[6, 2] for points, _ in wide)
    assert all(
        radii[6] < widths[6] <= 1.55 * radii[6] and widths[0] == radii[0] for _, widths in wide
    )


def test_a_kind_patient_has_fat_between_the_organs_and_is_else_like_any_other():
    for seed in range(6):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        person, any_other = draw_person(rng, kind=True), draw_person(other)
        assert person.blood == any_other.blood and person.organs["mediastinal_fat"] < -65
        assert rng.random() == other.random()  # what comes after is the same chest


def test_less_contrast_draws_soft_tissue_together_and_leaves_fat_and_bone():
    for seed in range(6):
        person = draw_person(np.random.default_rng(seed))
        faint = with_less_contrast(np.random.default_rng(seed), person)
        soft = ("muscle", "myocardium", "liver", "node")
        assert np.ptp(list(faint.blood.values())) <= 0.6 * np.ptp(list(person.blood.values()))
        assert np.ptp([faint.organs[name] for name in soft]) <= 0.6 * np.ptp(
            [person.organs[name] for name in soft]
        )
        assert all(
            faint.organs[name] == person.organs[name]
            for name in ("fat", "mediastinal_fat", "marrow", "cortex")
        )


# --- drawing tools ---------------------------------------------------------------------------------------------


def test_a_ball_painted_from_a_coarse_distance_keeps_its_volume():
    coarse = fields.Grid((-40.0,) * 3, (4.0,) * 3, (21,) * 3)
    fine = fields.Grid((-30.0, -30.0, -30.0), (2.0, 1.0, 1.0), (31, 61, 61))
    z, y, x = coarse.mesh()
    canvas = fields.Canvas(fine, coarse, 0.0)
    canvas.paint(np.sqrt(z * z + y * y + x * x) - 20, 1.0)
    assert canvas.hu.sum() * 2 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)


def test_linear_interpolation_is_exact_for_a_plane():
    coarse = fields.Grid((0.0, 0.0, 0.0), (4.0,) * 3, (6, 6, 6))
    fine = fields.Grid((1.0, 2.0, 3.0), (1.0, 1.5, 2.0), (10, 10, 8))
    plane = sum(k * axis for k, axis in zip((1, 2, 3), coarse.mesh()))
    expected = sum(k * axis for k, axis in zip((1, 2, 3), fine.mesh()))
    assert np.allclose(fields.resample(plane, coarse, fine), expected, atol=1e-4)


def test_a_thin_vessel_covers_its_own_volume_at_any_voxel_size():
    segment = np.array([[5.0, 6.0, 5.0, 25.0, 20.0, 24.0, 0.5, 0.5]])
    volume_mm3 = np.pi * 0.25 * np.linalg.norm(segment[0, 3:6] - segment[0, :3])
    for step in (1.0, 2.0, 3.0):
        grid = fields.Grid((0.0,) * 3, (step,) * 3, (int(30 / step),) * 3)
        cover = trees.rasterise(fields.Canvas(grid, grid, 0.0), segment)
        assert cover.sum() * step**3 == pytest.approx(volume_mm3, rel=0.05)


def test_a_tree_reaches_every_target_and_tapers():
    rng = np.random.default_rng(1)
    targets = rng.uniform(-50, 50, (64, 3))
    segments = trees.grow(np.zeros(3), targets, rng, tip_mm=0.6, stem_mm=6.0)
    ends = {tuple(np.round(end, 6)) for end in segments[:, 3:6]}
    assert {tuple(np.round(target, 6)) for target in targets} <= ends
    assert (segments[:, 7] <= segments[:, 6] * 1.001).all()


# --- data set --------------------------------------------------------------------------------------------------


def test_the_set_has_the_decathlons_layout_with_hidden_test_labels(small_set):
    description = json.loads((small_set / "dataset.json").read_text())
    assert description["numTraining"] == 2 and description["numTest"] == 1
    assert description["test"] == ["./imagesTs/lung_003.nii.gz"]
    assert (small_set / "labelsTs" / "lung_003.nii.gz").is_file()
    for pair in description["training"]:
        scan = volume.read(small_set / pair["image"])
        assert (
            volume.read_label(small_set / pair["label"], like=scan).any()
            and scan.hu.dtype == np.int16
        )


def test_affines_and_orientations_vary(small_set):
    grids = [volume.read(small_set / "imagesTr" / f"lung_00{k}.nii.gz").grid for k in (1, 2)]
    assert grids[0].flips != grids[1].flips and not np.allclose(
        grids[0].affine[:3, 3], grids[1].affine[:3, 3]
    )


def test_a_complete_set_is_left_and_an_interrupted_one_is_finished(small_set, capsys):
    before = _hashes(small_set)
    write_dataset(small_set, cases=2, test_cases=1, seed=3)
    assert "complete" in capsys.readouterr().out and _hashes(small_set) == before
    (small_set / "labelsTr" / "lung_002.nii.gz").unlink()
    (small_set / "dataset.json").unlink()
    write_dataset(small_set, cases=2, test_cases=1, seed=3)
    assert _hashes(small_set) == before


def test_another_set_in_the_same_place_is_not_overwritten(small_set):
    before = _hashes(small_set)
    with pytest.raises(LungsegError, match="other parameters.*seed"):
        write_dataset(small_set, cases=2, test_cases=1, seed=4)
    assert _hashes(small_set) == before


@pytest.mark.parametrize(
    "wrong", [{"cases": 0}, {"cases": "3"}, {"test_cases": -1}, {"seed": 1.5}, {"tier": "x"}]
)
def test_parameters_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(LungsegError, match=next(iter(wrong))):
        write_dataset(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()
