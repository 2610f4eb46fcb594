"""The anatomy of the synthetic chest, and the tools it is drawn with."""

from types import SimpleNamespace

import numpy as np
import pytest

from lungseg_utils.phantom import fields, soft_tissue, trees
from lungseg_utils.phantom.anatomy import draw_anatomy, mediastinum
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


def test_three_aortas_in_ten_are_wide_and_bulge_to_the_left_and_none_of_an_easy_patient():
    frame = SimpleNamespace(tube=lambda points, radii: (points, radii))

    def aorta(rng):
        return mediastinum._aorta(frame, rng, 1.0, (0, 0))

    usual, radii = aorta(None)
    drawn = [aorta(np.random.default_rng(seed)) for seed in range(200)]
    wide = [(points, widths) for points, widths in drawn if not np.array_equal(widths, radii)]
    assert 40 < len(wide) < 80
    for points, widths in wide:
        assert (points >= usual).all() and points[6, 2] > usual[6, 2]
        assert radii[6] < widths[6] <= 1.55 * radii[6] and widths[0] == radii[0]


def test_an_easy_patient_has_fat_between_the_organs_and_is_else_like_any_other():
    for seed in range(6):
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        person, any_other = draw_person(rng, easy=True), draw_person(other)
        assert person.blood_hu == any_other.blood_hu and person.tissue_hu["mediastinal_fat"] < -65
        assert rng.random() == other.random()  # what comes after is the same chest


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
