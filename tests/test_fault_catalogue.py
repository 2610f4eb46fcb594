"""No input of the catalogue passes in silence if it is bad, and none is refused if it is good."""

import numpy as np
import pytest
from helpers_bad_files import SHAPE, tumour
from helpers_faults import judge, write_all
from test_volume import chest

from lungseg_utils import volume

BAD = [f"bad_{kind}" for kind in ("images", "bodies", "labels", "series", "sets")]
BAD += ["bad_checkpoints", "bad_archives"]


@pytest.mark.parametrize("kind", BAD)
def test_nothing_bad_passes_in_silence(tmp_path, kind):
    ends = {one.name: judge(one, tmp_path) for one in write_all(tmp_path / kind, kind)}
    assert {name: end for name, end in ends.items() if end not in ("refused", "warned")} == {}
    assert len(ends) > 10 and not list(tmp_path.rglob("canary"))


def test_nothing_good_is_refused(tmp_path):
    for one in write_all(tmp_path / "images", "good_images"):
        assert np.array_equal(volume.read(one.path).hu, chest(SHAPE)), one.name
    for one in write_all(tmp_path / "labels", "good_labels"):
        scan, label = one.path
        assert np.array_equal(volume.read_label(label, like=volume.read(scan)), tumour()), one.name


@pytest.mark.parametrize(
    ("kind", "ends"),
    [("bodies", {"silent"}), ("series", {"silent", "warned"}), ("sets", {"silent", "warned"})],
)
def test_nothing_unusual_is_refused_or_read_in_part(tmp_path, kind, ends):
    found = {one.name: judge(one, tmp_path) for one in write_all(tmp_path / kind, f"good_{kind}")}
    assert {name: end for name, end in found.items() if end not in ends} == {}
