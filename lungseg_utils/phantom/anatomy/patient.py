"""One patient's anatomy: every shape that is painted, or that something painted must respect."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lungseg_utils.phantom.anatomy.body import torso
from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.anatomy.mediastinum import mediastinum
from lungseg_utils.phantom.anatomy.thorax import chest_wall, diaphragm, lungs
from lungseg_utils.phantom.fields import VoxelGrid, union
from lungseg_utils.phantom.person import Person

VIEW_MARGIN_MM = 12


@dataclass(frozen=True)
class Anatomy:
    """The shapes of one patient: signed distances in mm (negative inside) on the coarse grid."""

    person: Person
    frame: Frame
    skin: np.ndarray
    muscle: np.ndarray
    chest_wall: np.ndarray  # its inner surface
    above_diaphragm: np.ndarray  # height in mm
    organs: dict[str, np.ndarray]  # of the mediastinum
    hila: np.ndarray  # right and left, world mm (2, 3)
    lungs: tuple[np.ndarray, np.ndarray]  # right, left
    in_view: np.ndarray  # bool: well inside the scan

    @cached_property
    def lung(self) -> np.ndarray:
        """Both lungs."""
        return union(*self.lungs)

    @cached_property
    def spared(self) -> np.ndarray:
        """Heart, great vessels and airway: no tumour and no lymph node grows into them."""
        names = ("heart", "aorta", "superior_vena_cava", "trachea")
        return union(*(self.organs[name] for name in names), self.organs["pulmonary_arteries"] + 4)

    def draw_point(self, rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray | None:
        """Draw a point (world mm) from the coarse voxels `wanted` in view; None without any."""
        choices = np.flatnonzero(wanted & self.in_view)
        if not len(choices):
            return None
        return self.frame.grid.position(choices[rng.integers(len(choices))])


def draw_anatomy(
    rng: np.random.Generator, person: Person, coarse: VoxelGrid, scan: VoxelGrid, *, easy: bool
) -> Anatomy:
    """Draw a patient's anatomy on the `coarse` grid; an `easy` one has clear borders."""
    frame = Frame(rng, person, coarse)
    wall = chest_wall(frame)
    above = diaphragm(frame)
    organs, hila = mediastinum(rng, frame, easy=easy)
    right_left = lungs(rng, frame, wall, above, organs, easy=easy)
    skin, muscle = torso(frame, wall)
    in_view = np.zeros(coarse.shape, bool)
    last = [o + s * (n - 1) for o, s, n in zip(scan.origin_mm, scan.spacing_mm, scan.shape)]
    low = [start + VIEW_MARGIN_MM for start in scan.origin_mm]
    in_view[coarse.box(low, [stop - VIEW_MARGIN_MM for stop in last])] = True
    return Anatomy(
        person=person,
        frame=frame,
        skin=skin,
        muscle=muscle,
        chest_wall=wall,
        above_diaphragm=above,
        organs=organs,
        hila=hila,
        lungs=right_left,
        in_view=in_view,
    )
