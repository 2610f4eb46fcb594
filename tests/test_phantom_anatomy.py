"""The anatomy of the synthetic chest, and the tools it is drawn with."""

from types import SimpleNamespace

import numpy as np
import pytest

from lungseg_utils.phantom import fields, soft_tissue, trees
from lungseg_utils.phantom.anatomy import draw_anatomy, great_arteries, mediastinum
from lungseg_utils.phantom.person import draw_person, with_less_contrast

# --- the patient ----------------------------------------------------------------------------------


def test_every_organ_that_is_painted_is_drawn_and_has_an_attenuation():
    """Who adds an organ and forgets one of its places learns it here."""
    rng = np.random.default_rng(0)
    person = draw_person(rng)
    grid = fields.VoxelGrid((-400.0, -220.0, -290.0), (8.0,) * 3, (70, 52, 73))
    anatomy = draw_anatomy(rng, person, grid, grid, easy=False)
    hu = {**person.tissue_hu, **person.blood_hu}
    contents = {**soft_tissue.PAINT_ORDER, **{k: v[0] for k, v in soft_tissue.CHAMBERS.items()}}
    assert set(anatomy.organs) == set(contents) | {"heart", "trachea", "hilar_tissue"}
    assert set(contents.values()) <= set(hu) and set(mediastinum.FAT_MM) <= set(anatomy.organs)
    for name, shape in anatomy.organs.items():
        assert shape.shape == grid.shape and shape.min() < 0, name


def test_three_aortas_in_ten_are_wide_and_every_arch_has_its_own_height_but_an_easy_patients():
    frame = SimpleNamespace(tube=lambda points, radii: (points, radii))

    def aorta(variants):
        return great_arteries.aorta(frame, variants, 1.0, (0, 0))

    usual, radii = aorta(None)
    assert np.array_equal(usual, great_arteries.AORTA)
    assert np.array_equal(radii, great_arteries.AORTA_MM)
    drawn = [aorta(np.random.default_rng(seed)) for seed in range(200)]
    wide = [(points, widths) for points, widths in drawn if widths[7] > radii[7]]
    assert 40 < len(wide) < 80
    for points, widths in wide:
        assert points[6, 2] > usual[6, 2]
        assert widths[6] <= 1.6 * radii[6] and widths[0] == radii[0]
    tops = np.array([points[4, 0] for points, _ in drawn])
    across = np.array([2 * widths[4] for _, widths in drawn])
    assert tops.min() < 42 and tops.max() > 60, "from a low arch to one that is elongated"
    assert across.min() > 20 and across.max() < 50 and 22 < np.median(across) < 36
    assert all((points[:, 2] >= usual[:, 2]).all() for points, _ in drawn), "it bulges to the left"


def test_the_lungs_keep_clear_of_the_azygos_vein_and_of_the_arteries():
    grid = fields.VoxelGrid((-250.0, -120.0, -170.0), (5.0,) * 3, (85, 50, 69))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        anatomy = draw_anatomy(rng, draw_person(rng), grid, grid, easy=False)
        for name in ("azygos_vein", "aorta", "pulmonary_arteries"):
            inside = anatomy.organs[name] < 0
            assert inside.any() and (anatomy.lung[inside] < 0).mean() < 0.03, name


def test_the_pulmonary_arteries_go_on_as_interlobar_arteries_of_their_real_width():
    drawn = []
    frame = SimpleNamespace(tube=lambda points, radii: drawn.append((points, radii)) or np.zeros(1))
    hila = (-14.0, 14.0, -47.0), (-2.0, 20.0, 47.0)
    for seed in range(60):
        great_arteries.pulmonary_arteries(frame, np.random.default_rng(seed), 1.0, hila)
    left = np.array([2 * radii[3] for _, radii in drawn[::4]])
    interlobar = np.array([2 * radii[0] for _, radii in (*drawn[2::4], *drawn[3::4])])
    assert left.min() > 18 and left.max() < 32
    assert interlobar.min() > 9 and np.median(interlobar) < 17 and interlobar.max() < 22
    drawn.clear()
    great_arteries.pulmonary_arteries(frame, None, 1.0, hila)
    assert len(drawn) == 3, "an easy patient has the left one alone"


def test_an_easy_patient_has_fat_between_the_organs_and_is_else_like_any_other():
    for seed in range(6):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        person, any_other = draw_person(rng, easy=True), draw_person(other)
        assert person.lung_hu == any_other.lung_hu and person.tissue_hu["mediastinal_fat"] < -65
        assert rng.random() == other.random()  # what comes after is the same chest


def test_three_patients_in_ten_are_scanned_for_their_arteries():
    people = [draw_person(np.random.default_rng(seed)) for seed in range(200)]
    plain = [draw_person(np.random.default_rng(seed), easy=True) for seed in range(200)]
    timed = [a for a, b in zip(people, plain) if a.blood_hu != b.blood_hu]
    assert 40 < len(timed) < 80
    assert all(150 <= person.blood_hu["aorta"] <= 400 for person in timed)
    assert all(100 <= person.blood_hu["right_heart"] <= 400 for person in timed)


def test_less_contrast_draws_soft_tissue_together_and_leaves_fat_and_bone():
    for seed in range(6):
        person = draw_person(np.random.default_rng(seed))
        faint = with_less_contrast(np.random.default_rng(seed), person)

        def spread(tissue_hu):
            return np.ptp([tissue_hu[name] for name in ("muscle", "myocardium", "liver")])

        assert np.ptp(list(faint.blood_hu.values())) <= 0.6 * np.ptp(list(person.blood_hu.values()))
        assert spread(faint.tissue_hu) <= 0.6 * spread(person.tissue_hu)
        for name in ("fat", "mediastinal_fat", "marrow", "cortex"):
            assert faint.tissue_hu[name] == person.tissue_hu[name]


# --- drawing tools --------------------------------------------------------------------------------


def test_a_ball_painted_from_a_coarse_distance_keeps_its_volume():
    coarse = fields.VoxelGrid((-40.0,) * 3, (4.0,) * 3, (21,) * 3)
    fine = fields.VoxelGrid((-30.0, -30.0, -30.0), (2.0, 1.0, 1.0), (31, 61, 61))
    z, y, x = coarse.mesh()
    canvas = fields.Canvas(fine, coarse, 0.0)
    canvas.paint(np.sqrt(z * z + y * y + x * x) - 20, 1.0)
    assert canvas.hu.sum() * 2 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)


def test_what_lies_beside_the_scan_is_not_painted():
    coarse = fields.VoxelGrid((-40.0,) * 3, (4.0,) * 3, (21,) * 3)
    fine = fields.VoxelGrid((-10.0, -10.0, 20.0), (1.0,) * 3, (21, 21, 10))
    z, y, x = coarse.mesh()
    canvas = fields.Canvas(fine, coarse, 0.0)
    canvas.paint(np.sqrt(z * z + y * y + (x + 30) ** 2) - 5, 1.0)
    canvas.paint(np.full(coarse.shape, 50.0), 1.0)
    assert not canvas.hu.any()


def test_linear_interpolation_is_exact_for_a_plane():
    coarse = fields.VoxelGrid((0.0, 0.0, 0.0), (4.0,) * 3, (6, 6, 6))
    fine = fields.VoxelGrid((1.0, 2.0, 3.0), (1.0, 1.5, 2.0), (10, 10, 8))
    plane = sum(k * axis for k, axis in zip((1, 2, 3), coarse.mesh()))
    expected = sum(k * axis for k, axis in zip((1, 2, 3), fine.mesh()))
    assert np.allclose(fields.interpolate(plane, coarse, fine), expected, atol=1e-4)


def test_a_thin_vessel_covers_its_own_volume_at_any_voxel_size():
    segment = np.array([[5.0, 6.0, 5.0, 25.0, 20.0, 24.0, 0.5, 0.5]])
    volume_mm3 = np.pi * 0.25 * np.linalg.norm(segment[0, 3:6] - segment[0, :3])
    for step in (1.0, 2.0, 3.0):
        grid = fields.VoxelGrid((0.0,) * 3, (step,) * 3, (int(30 / step),) * 3)
        cover = trees.rasterise(fields.Canvas(grid, grid, 0.0), segment)
        assert cover.sum() * step**3 == pytest.approx(volume_mm3, rel=0.05)


def test_a_tree_reaches_every_target_and_tapers():
    rng = np.random.default_rng(1)
    targets = rng.uniform(-50, 50, (64, 3))
    segments = trees.grow(rng, np.zeros(3), targets, tip_mm=0.6, stem_mm=6.0)
    ends = {tuple(np.round(end, 6)) for end in segments[:, 3:6]}
    assert {tuple(np.round(target, 6)) for target in targets} <= ends
    assert (segments[:, 7] <= segments[:, 6] * 1.001).all()
