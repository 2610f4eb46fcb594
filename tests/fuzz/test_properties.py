"""What holds for any geometry and for any value of a parameter."""

import math

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_volume import chest

from lungseg_utils import parameters, volume
from lungseg_utils.runtime import LungsegError

UNHURRIED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPE = (4, 5, 6)
number = st.floats(-1, 1, width=32)
spacing = st.one_of(
    st.floats(0.3, 10),
    st.floats(0, 60),
    st.sampled_from([0.0, -0.8, math.nan, math.inf, 1e-6, 1e9]),
)
three = st.tuples(number, number, number)
scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
value = st.one_of(
    scalar, st.lists(scalar, max_size=4), st.dictionaries(st.text(max_size=3), scalar, max_size=2)
)
name = st.one_of(st.sampled_from(sorted(parameters.PARAMETERS)), st.text(max_size=12))


def turn(w, x, y, z) -> np.ndarray:
    """Return the rotation of a quaternion."""
    w, x, y, z = np.array([w, x, y, z]) / max(1e-9, math.hypot(w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@UNHURRIED
@given(
    st.tuples(number, three),
    st.tuples(spacing, spacing, spacing),
    three,
    st.one_of(st.just(0.0), number),
)
@np.errstate(all="ignore")
def test_a_grid_is_refused_or_every_voxel_stays_where_it_is(
    tmp_path, quaternion, sizes, origin, shear
):
    stored, matrix = chest(SHAPE).transpose(2, 1, 0), np.eye(4)
    matrix[:3, :3] = (
        turn(quaternion[0], *quaternion[1]) @ np.diag(sizes) + np.eye(3, k=1) * shear / 5
    )
    matrix[:3, 3] = np.array(origin) * 500
    header = nib.Nifti1Header()
    header.set_data_shape(stored.shape)
    header.set_data_dtype(stored.dtype)
    header["magic"], header["vox_offset"], header["sform_code"] = b"n+1", 352, 1
    header["srow_x"], header["srow_y"], header["srow_z"] = matrix[:3]
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes("F"))
    try:
        scan = volume.read(tmp_path / "a.nii")
    except LungsegError as error:
        assert any(word in str(error) for word in ("affine", "voxels", "sheared")) and str(
            error
        ).endswith(".")
        return
    sform = nib.load(tmp_path / "a.nii").affine
    index = np.indices(scan.hu.shape).reshape(3, -1)
    world = scan.affine @ np.vstack([index, np.ones(index.shape[1])])
    place = np.rint((np.linalg.inv(sform) @ world)[:3]).astype(int)
    assert np.abs(sform[:3, :3] @ place + sform[:3, 3:] - world[:3]).max() < 1e-3
    assert np.array_equal(scan.hu[tuple(index)], stored[tuple(place)])
    assert all(0.05 <= step <= 25 for step in scan.spacing_mm)
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / "mask.nii").dataobj), stored > 0)
    assert np.array_equal(nib.load(tmp_path / "mask.nii").affine, sform)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(name, value, max_size=3))
def test_parameters_are_refused_by_name_or_brought_to_their_kind_once_and_for_all(values):
    try:
        checked = parameters.check(values)
    except LungsegError as error:
        assert str(error).startswith("parameters: ") and "\n" not in str(error)
        return
    assert checked.keys() == values.keys() <= parameters.PARAMETERS.keys()
    assert parameters.check(checked) == checked


@pytest.mark.parametrize("name", parameters.PARAMETERS)
def test_any_number_is_in_its_range_or_refused(name):
    parameter = parameters.PARAMETERS[name]

    @settings(max_examples=50, deadline=None)
    @given(st.one_of(st.integers(), st.floats()))
    def holds(number):
        try:
            checked = parameters.check({name: number})[name]
        except LungsegError:
            return
        items = checked if parameter.length else [checked]
        assert all(type(item) is parameter.kind and item == item for item in items)

    holds()
