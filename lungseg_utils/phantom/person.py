"""Who is scanned: every random choice about one synthetic patient, drawn in one place.

Ranges are wider than a clinic's: a network that has met every mixture meets no surprise in a real
scan. Sizes and HU are plausible values chosen by hand, then tuned until lungs and tumours met
`calibration.REAL`.
"""

from dataclasses import dataclass, replace

import numpy as np

PHASES = {  # rise in HU of right heart, left heart, aorta and veins; the organs' share of theirs
    "none": ((0, 0, 0, 0), 0.0),
    "pulmonary": ((250, 120, 60, 5), 0.15),
    "arterial": ((130, 200, 180, 25), 0.5),
    "portal": ((85, 90, 90, 75), 1.0),
}
SOFT = ("muscle", "myocardium", "liver", "spleen", "hollow_organ", "lymph_node")


@dataclass(frozen=True)
class Person:
    """One synthetic patient: sizes in mm, attenuations in HU."""

    width: float  # scale of the chest from side to side (1 = average)
    depth: float  # front to back
    height: float  # head to feet
    fat_mm: float
    muscle_mm: float
    breasts_mm: float  # 0 where there are none
    arms_up: bool
    rotation_deg: float
    tilt: float
    dome_mm: tuple[float, float]  # height of the right and left diaphragm
    kyphosis_mm: float  # drawn, but without effect
    blood_hu: dict[str, float]  # of each vessel and chamber in this contrast phase
    tissue_hu: dict[str, float]  # of all else
    lung_hu: float
    dorsal_gradient_hu: float
    emphysema: float  # 0 none … 1 severe
    calcified: bool  # old vessel walls


def draw_person(rng: np.random.Generator, *, easy: bool = False) -> Person:
    """Draw a patient; an `easy` one has fat between the organs, so that their borders show."""
    size = float(np.clip(rng.normal(0.945, 0.035), 0.86, 0.99))
    phase = str(rng.choice(list(PHASES), p=[0.3, 0.2, 0.25, 0.25]))
    blood_hu = _draw_blood(rng, phase)
    tissue_hu = _draw_tissue(rng, PHASES[phase][1])
    # a stream of its own: whoever draws from it leaves all other numbers as they are
    fat_rng = rng.spawn(1)[0]
    if not easy and fat_rng.random() < 0.4:
        tissue_hu["mediastinal_fat"] = fat_rng.uniform(-60, 30)
    if not easy and fat_rng.random() < 0.3:
        blood_hu = _draw_angiography(fat_rng, blood_hu)
    # Deep inspiration is dark and large; a shallow one brighter, with a higher diaphragm.
    shallow = rng.beta(1.4, 2.2)
    dome = -116 + 46 * shallow + rng.normal(0, 6)
    return Person(
        width=size * rng.normal(1.0, 0.04),
        depth=size * rng.normal(1.0, 0.06),
        height=size * rng.normal(1.0, 0.05),
        fat_mm=float(np.clip(rng.lognormal(2.6, 0.55), 4, 40)),
        muscle_mm=rng.uniform(12, 26),
        breasts_mm=rng.uniform(25, 62) if rng.random() < 0.4 else 0.0,
        arms_up=rng.random() < 0.75,
        rotation_deg=rng.normal(0, 4),
        tilt=rng.normal(0, 0.03),
        dome_mm=(dome, dome - rng.normal(12, 8)),
        kyphosis_mm=rng.normal(14, 8),
        blood_hu=blood_hu,
        tissue_hu=tissue_hu,
        lung_hu=-915 + 150 * shallow + rng.normal(0, 12),
        dorsal_gradient_hu=rng.uniform(15, 70) * (0.6 + shallow),
        emphysema=float(max(0.0, rng.uniform(-1.6, 1.0))),
        calcified=rng.random() < 0.4,
    )


def _draw_blood(rng: np.random.Generator, phase: str) -> dict[str, float]:
    plain = rng.uniform(32, 50)
    right, left, aorta, veins = (plain + rise * rng.uniform(0.5, 1.35) for rise in PHASES[phase][0])
    cava = right + (rng.uniform(0, 350) if phase in ("pulmonary", "arterial") else 0)
    return {
        "right_heart": right,
        "left_heart": left,
        "aorta": aorta,
        "superior_vena_cava": cava,
        "azygos_vein": veins,
        "inferior_vena_cava": (plain + veins) / 2,
    }


def _draw_angiography(rng: np.random.Generator, blood_hu: dict[str, float]) -> dict[str, float]:
    """Draw the HU of a scan timed for the arteries: 150 to 400 HU is what protocols aim at."""
    aorta = rng.uniform(150, 400)
    right = rng.uniform(100, 400)
    return blood_hu | {
        "right_heart": right,
        "left_heart": aorta + rng.normal(0, 15),
        "aorta": aorta,
        "superior_vena_cava": right + rng.uniform(0, 300),
        "azygos_vein": rng.choice([rng.uniform(40, 90), rng.uniform(90, 300)], p=[0.7, 0.3]),
    }


def _draw_tissue(rng: np.random.Generator, enhanced: float) -> dict[str, float]:
    """Draw the HU of all that is not blood; `enhanced` is 0 without contrast agent, 1 at most."""
    return {
        "muscle": rng.uniform(42, 62) + 8 * enhanced,
        "myocardium": rng.uniform(35, 50) + enhanced * rng.uniform(30, 70),
        "liver": rng.uniform(35, 65) + enhanced * rng.uniform(25, 60),
        "spleen": rng.uniform(40, 52) + enhanced * rng.uniform(30, 90),
        "kidney": rng.uniform(28, 38) + enhanced * rng.uniform(80, 170),
        "hollow_organ": rng.uniform(30, 45) + enhanced * rng.uniform(10, 60),  # its wall
        "lymph_node": rng.uniform(25, 50) + enhanced * rng.uniform(0, 50),
        "thyroid": rng.uniform(70, 120) + enhanced * 60,
        "fat": rng.uniform(-115, -92),
        "mediastinal_fat": rng.uniform(-105, -70),
        "marrow": rng.uniform(60, 230),
        "cortex": rng.uniform(380, 800),
        "disc": rng.uniform(60, 95),
        "cord": rng.uniform(22, 36),
        "gastric_fluid": rng.uniform(-20, 60),
    }


def with_less_contrast(rng: np.random.Generator, person: Person) -> Person:
    """Draw blood, muscle and organs closer to one HU: only their borders show."""
    middle = rng.uniform(30, 50)
    share = rng.uniform(0, 0.6)
    soft = {**person.blood_hu, **{name: person.tissue_hu[name] for name in SOFT}}
    near = {name: middle + share * (hu - middle) for name, hu in soft.items()}
    return replace(
        person,
        blood_hu={name: near[name] for name in person.blood_hu},
        tissue_hu={name: near.get(name, hu) for name, hu in person.tissue_hu.items()},
    )
