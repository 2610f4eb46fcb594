"""Ribs, spine, sternum, shoulder girdle: drawn at full resolution in the curved coordinates of the chest wall.

In the coordinates (depth in the chest wall, height minus the ribs' descent, way round from the back) all ribs are
parallel bars, so one formula draws them all; the spine is periodic in height.
"""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.anatomy import (
    CAGE_CENTRE,
    CAGE_DEPTH,
    CAGE_WIDTH,
    CAGE_Z,
    SPINE_Y,
    SPINE_Z,
    Frame,
)
from lungseg_utils.phantom.fields import Canvas, coverage, resample, slabs

RIB_PITCH_MM, RIB_TOP_MM = 23.0, 92.0  # height between ribs, height of the first one at the spine
VERTEBRA_MM = 22.5
ROUND_END = np.array(
    [0.93, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 0.76, 0.72, 0.68, 0.5, 0.34], np.float32
)


def _lay(canvas: Canvas, part, near, cover, hu) -> None:
    """Blend HU into the voxels of `part` chosen by `near`."""
    target = canvas.hu[part]
    old = target[near]
    target[near] = old + cover * (hu - old)


def paint_ribs(
    canvas: Canvas, frame: Frame, shell: np.ndarray, muscle: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint ribs with cortex, marrow and cartilage, the sternum and the shoulder blades."""
    organs, edge = frame.person.organs, canvas.edge_mm
    a, b = frame.profile(CAGE_Z, CAGE_WIDTH), frame.profile(CAGE_Z, CAGE_DEPTH)
    round_ = np.arctan2(
        np.abs(frame.x) / a, (frame.y - frame.profile(CAGE_Z, CAGE_CENTRE)) / b
    ) / np.float32(np.pi)
    slope = rng.uniform(62, 92)
    height = (
        frame.z
        + np.float32(slope) * round_
        - np.float32(1.9 * slope) * np.maximum(round_ - 0.8, 0)
        + 1.5 * frame.bumps[7]
    )
    tall, thick = rng.uniform(5.2, 6.8), rng.uniform(3.2, 4.3)
    cartilage_hu, scapula_mm = rng.uniform(70, 160), rng.uniform(20, 30)
    band = np.maximum(np.abs(shell - 18) - 30, frame.z - 112)
    for part in slabs(canvas.extent(band, 4)):
        depth, high, way, x, z, flesh = (
            resample(field, canvas.coarse, canvas.fine, part)
            for field in (shell, height, round_, frame.x, frame.z, muscle)
        )
        near = np.abs(depth - 6) < 6 + edge
        depth_n, high_n, way_n = (
            depth[near],
            (high[near] - np.float32(RIB_TOP_MM)) / np.float32(-RIB_PITCH_MM),
            way[near],
        )
        number = np.clip(np.rint(high_n), 0, 11).astype(np.int8)
        bar = (
            np.sqrt(((high_n - number) * (RIB_PITCH_MM / tall)) ** 2 + ((depth_n - 6) / thick) ** 2)
            - 1
        ) * thick
        bar = np.maximum(bar, (0.055 - way_n) * 200)
        ends = (way_n - ROUND_END[number]) * 200
        bone = np.maximum(bar, ends)
        _lay(
            canvas,
            part,
            near,
            coverage(np.maximum(np.maximum(bar + 0.5, -ends), (number > 9) * 9.0), edge),
            cartilage_hu,
        )
        _lay(canvas, part, near, coverage(bone, edge), organs["cortex"])
        _lay(canvas, part, near, coverage(bone + 1.3, edge), organs["marrow"] * 0.8)
        sternum = (np.abs(depth - 10) < 9 + edge) & (way > 0.8) & (np.abs(x) < 34)
        if sternum.any():
            xs, zs, ds = np.abs(x[sternum]), z[sternum], depth[sternum]
            half = 15 + 11 * np.clip((zs - 22) / 14, 0, 1)
            plate = np.maximum(
                np.maximum(np.abs(ds - 9) - 5.5, xs - half), np.maximum(zs - 58, -112 - zs)
            )
            _lay(canvas, part, sternum, coverage(plate, edge), organs["cortex"] * 0.7)
            _lay(canvas, part, sternum, coverage(plate + 1.4, edge), organs["marrow"] * 0.75)
        blade = (np.abs(depth - scapula_mm - 8) < 26) & (way > 0.1) & (way < 0.52) & (flesh < -2)
        if blade.any():
            ds, zs, ws = depth[blade] - scapula_mm, z[blade], way[blade]
            edge_of = np.maximum(
                np.maximum(zs - 84, -72 - zs),
                np.maximum(0.18 + (zs - 10) * 0.0004 - ws, ws - 0.40 - zs * 0.0006) * 180,
            )
            rim = np.clip(1 + edge_of / 14, 0, 1)
            plate = np.maximum(np.abs(ds) - 1.9 - 2.6 * rim, edge_of)
            ridge = np.maximum(
                np.maximum(np.abs(zs - 30 - 80 * (ws - 0.2)) - 3, np.abs(ds - 9) - 10),
                np.maximum(0.2 - ws, ws - 0.46) * 180,
            )
            _lay(
                canvas,
                part,
                blade,
                coverage(np.maximum(np.minimum(plate, ridge), flesh[blade] + 4), edge),
                organs["cortex"] * 0.75,
            )


def paint_spine(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """Paint vertebral bodies, discs, canal with cord, arches, spinous and transverse processes."""
    organs, edge = frame.person.organs, canvas.edge_mm
    behind = frame.y - frame.profile(SPINE_Z, SPINE_Y)
    box = np.maximum(np.maximum(np.abs(frame.x) - 40, np.abs(behind - 22) - 46), frame.z - 240)
    size, shift = rng.uniform(0.92, 1.1), rng.random()
    for part in slabs(canvas.extent(box, 4)):
        x, y, z = (
            resample(field, canvas.coarse, canvas.fine, part)
            for field in (frame.x, behind, frame.z)
        )
        near = (np.abs(x) < 42) & (np.abs(y - 22) < 48)
        x, y, z = np.abs(x[near]), y[near], z[near]
        neck = np.clip((z - 60) / 80, 0, 1) * 0.28
        radius = (16.5 + np.clip(-z / 200, 0, 1) * 3) * size * (1 - neck)
        phase = z / VERTEBRA_MM + shift
        up = (phase - np.rint(phase)) * VERTEBRA_MM  # height above this vertebra's middle
        ratio = np.sqrt((x / 1.2) ** 2 + y**2)
        waist = radius - 1.6 + np.abs(up) * 0.16
        column = ratio - radius
        body = np.maximum(ratio - waist, np.abs(up) - 8.8)
        canal = np.sqrt(x**2 + (y - radius - 8) ** 2) - 8.5 * (1 - neck)
        arch = np.maximum(np.abs(canal - 2.2) - 2.4, np.abs(up + 2) - 8.5)
        yy = y - radius - 17
        spinous = np.maximum(
            np.maximum(x - 3.2, np.abs(yy - 12) - 17), np.abs(up + 2 + 0.45 * yy) - 5.5
        )
        transverse = np.maximum(
            np.maximum(np.abs(y - radius - 9 - 0.22 * x) - 4.5, np.abs(x - 19) - 12),
            np.abs(up - 3) - 5,
        )
        rear = np.maximum(np.minimum(np.minimum(arch, spinous), transverse), -canal)
        for cover, hu in (
            (coverage(column, edge), organs["disc"]),
            (coverage(body, edge), organs["cortex"] * 0.6),
            (coverage(body + 1.3, edge), organs["marrow"]),
            (coverage(rear, edge), organs["cortex"] * 0.75),
            (coverage(rear + 1.8, edge), organs["marrow"] * 1.1),
            (coverage(canal, edge), 5.0),
            (coverage(canal + 4, edge), organs["cord"]),
        ):
            _lay(canvas, part, near, cover, hu)


def paint_shoulders(canvas: Canvas, frame: Frame) -> None:
    """Paint clavicles and upper arms as cortex round marrow."""
    for side in (-1, 1):
        clavicle = frame.tube(
            [
                (62, -34, 24 * side),
                (72, -38, 60 * side),
                (88, -8, 110 * side),
                (98, 10, 142 * side),
            ],
            [8, 6, 5.5, 6.5],
        )
        head = frame.ellipsoid((82, 14, 150 * side), (24, 23, 23), 0.04)
        shaft = (
            [(84, 12, 152 * side), (300, -40, 150 * side)]
            if frame.person.arms_up
            else [(84, 14, 158 * side), (-330, 10, 205 * side)]
        )
        humerus = np.minimum(head, frame.tube(shaft, [13, 11]))
        for bone, rim in ((clavicle, 1.8), (humerus, 2.6)):
            canvas.paint(bone, frame.person.organs["cortex"])
            canvas.paint(bone + rim, frame.person.organs["marrow"])
