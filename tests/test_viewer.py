"""A session decides, a widget shows it; the same calls work where nobody can move anything."""

import asyncio
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lungseg_utils import (
    decathlon,
    evaluation,
    parameters,
    phantom,
    prediction,
    training,
    viewer,
    volume,
)
from lungseg_utils.components import list_components
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.viewer.growing import segment_at
from lungseg_utils.viewer.link import Link
from lungseg_utils.viewer.packing import LEVELS_HU, grey_levels, pack_runs, pack_slices
from lungseg_utils.viewer.strokes import stroke_voxels
from lungseg_utils.volume import Volume
from lungseg_utils.volume.grid import CANONICAL, grid_of


@pytest.fixture
def scan():
    affine = CANONICAL @ np.diag([4.0, 2, 2, 1])
    hu = np.full((12, 40, 40), 40, np.int16)
    hu[:, [0, -1]] = hu[:, :, [0, -1]] = -1000
    hu[2:10, 8:32, 5:17] = hu[2:10, 8:32, 23:35] = -850
    return Volume(hu, (4.0, 2.0, 2.0), affine, "toy", Path("toy.nii.gz"), grid_of(hu.shape, affine))


@pytest.fixture
def probability(scan):
    """A tumour with a certain core of 27 voxels, a doubtful mark of 8, and a tiny speck."""
    probability = np.zeros(scan.hu.shape, np.float32)
    probability[3:8, 9:17, 6:14] = 0.4
    probability[4:7, 11:14, 8:11] = 0.9
    probability[4:6, 24:26, 25:27] = 0.6
    probability[8, 30, 30] = 0.99
    return probability


@pytest.fixture
def truth(scan):
    truth = np.zeros(scan.hu.shape, np.uint8)
    truth[4:7, 11:14, 8:11] = 1
    truth[6:9, 26:30, 28:32] = 1
    return truth


@pytest.fixture
def session(scan, probability, truth):
    return viewer.Session(scan, probability, truth=truth)


# --- threshold, keep and drop ---------------------------------------------------------------------


def test_a_mask_is_what_the_predictor_makes_of_the_same_probabilities():
    """Also where min_peak drops a mark, which is judged on the network's own grid."""
    import torch

    torch.manual_seed(0)
    predictor = Predictor(model=SegUNet(channels=(4, 8)), device="cpu", facts={"spacing_mm": 4.0})
    scan, _ = phantom.make_case(3)
    prepared = predictor.prepare(scan)
    blobs = torch.zeros(prepared.hu.shape)
    for at, peak in ((8, 0.95), (22, 0.7), (36, 0.55)):
        blobs[at : at + 6, at : at + 6, 20:26] = 0.52
        blobs[at + 2 : at + 4, at + 2 : at + 4, 22:24] = peak
    for min_peak, threshold, count in ((0.0, 0.5, 3), (0.8, 0.5, 1), (0.6, 0.3, 2)):
        predictor.min_peak = min_peak
        mask = predictor.mask(prepared, blobs, threshold)
        found = prediction.Segmentation(mask, blobs, prepared)
        session = viewer.Session(scan, found, threshold=threshold, min_peak=min_peak)
        assert np.array_equal(session.mask, mask)
        assert sum(mark.is_kept for mark in session.marks) == count
        assert len(session.marks) == 3  # what is uncertain is listed too


def test_the_threshold_moves_the_mask_and_the_scores(session, probability):
    assert np.array_equal(session.mask, (probability >= 0.5) & (probability < 0.95))
    assert [round(mark.confidence, 2) for mark in session.marks] == [0.9, 0.6]
    session.threshold = 0.3
    assert len(session.marks[0].voxels) == 5 * 8 * 8
    session.threshold = 0.7
    assert session.mask.sum() == 27
    for value in (0, 0.01, 1.2):
        with pytest.raises(LungsegError, match="threshold: .* out of range"):
            session.threshold = value
    assert session.threshold == 0.7


def test_scores_are_those_of_the_evaluation(session, scan, truth):
    for threshold in (0.3, 0.5, 0.7):
        session.threshold = threshold
        row = evaluation.case_metrics(truth, session.mask, scan.spacing_mm)
        scores = session.scores()
        names = ("dice", "lesions_true", "lesions_found", "false_positives")
        assert {name: scores[name] for name in names} == {name: row[name] for name in names}
        assert scores["volume_ml"] == pytest.approx(row["volume_ml_pred"], abs=0.01)


def test_without_a_truth_there_are_tumours_and_millilitres(scan, probability):
    scores = viewer.Session(scan, probability).scores()
    assert scores == {"tumours": 2, "volume_ml": round((27 + 8) * 16 / 1000, 2)}
    assert viewer.Session(scan).scores() == {"tumours": 0, "volume_ml": 0.0}


def test_a_mark_is_dropped_and_kept_and_stays_so_when_the_threshold_moves(session):
    session.drop(1)
    assert session.mask.sum() == 8 and not session.marks[0].is_kept
    session.threshold = 0.3
    assert session.mask.sum() == 8
    session.keep(1)
    assert session.mask.sum() == 5 * 8 * 8 + 8
    with pytest.raises(LungsegError, match="no mark 3.*from 1 to 2"):
        session.drop(3)


def test_an_uncertain_mark_is_kept_when_asked_for(scan, probability):
    session = viewer.Session(scan, probability, min_peak=0.8)
    assert [mark.is_kept for mark in session.marks] == [True, False]
    session.keep(2)
    assert session.mask.sum() == 27 + 8


def test_every_step_can_be_taken_back_and_a_drawn_slider_is_one(session):
    masks = [session.mask]
    for act in (
        lambda: [setattr(session, "threshold", cut) for cut in (0.45, 0.35, 0.3)],
        lambda: session.drop(2),
        lambda: session.brush([(6, 20, 10)], 6),
        lambda: session.brush([(5, 12, 9)], 4, plane="axial", erase=True),
        lambda: session.add((4, 11, 8)),
    ):
        act()
        assert not np.array_equal(session.mask, masks[-1])
        masks.append(session.mask)
    for mask in masks[-2::-1]:
        session.undo()
        assert np.array_equal(session.mask, mask)
    assert not session.can_undo
    session.undo()
    assert np.array_equal(session.mask, masks[0])


# --- click and brush ------------------------------------------------------------------------------


def test_a_click_asks_the_network_first(session, probability):
    how = session.add((5, 12, 9))
    assert how == "the network, from a probability of 0.25"
    assert np.array_equal(session.mask[:, :, :20], probability[:, :, :20] >= 0.25)


def test_where_the_network_saw_nothing_a_click_grows_in_hu():
    """On synthetic tumours, most of which touch vessels or the wall of the chest."""
    overlaps = []
    for seed in (7000, 7001, 7002):
        scan, truth = phantom.make_case(seed)
        for voxels in list_components(truth):
            middle = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
            if scan.hu[tuple(middle)] < -300:
                continue  # a cavity, or ground glass
            session = viewer.Session(scan, truth=truth)
            how = session.add(middle)
            assert how.startswith("region growing, from -")
            own = np.zeros_like(truth)
            own[tuple(voxels.T)] = 1
            overlaps.append(evaluation.dice(own, session.mask))
    assert len(overlaps) >= 2 and np.median(overlaps) > 0.6


def test_a_click_reaches_so_far_and_no_farther(scan):
    for reach_mm in (6.0, 12.0):
        voxels, _ = segment_at(scan, np.zeros(scan.hu.shape), (6, 20, 20), reach_mm=reach_mm)
        places = np.stack(np.unravel_index(voxels, scan.hu.shape), axis=1)
        apart = np.linalg.norm((places - [6, 20, 20]) * scan.spacing_mm, axis=1)
        assert len(voxels) and apart.max() <= reach_mm


def test_the_networks_peak_beyond_the_reach_of_a_click_is_not_taken(scan):
    probability = np.zeros(scan.hu.shape, np.float32)
    probability[5:8, 22:26, 22:26] = 0.4  # from 5.7 mm on
    voxels, how = segment_at(scan, probability, (6, 20, 20), reach_mm=5.0)
    without, _ = segment_at(scan, np.zeros_like(probability), (6, 20, 20), reach_mm=5.0)
    assert how.startswith("region growing") and np.array_equal(voxels, without)
    voxels, how = segment_at(scan, probability, (6, 20, 20), reach_mm=30.0)
    assert how.startswith("the network") and np.array_equal(voxels, np.flatnonzero(probability))


def test_a_click_into_lung_or_beside_the_scan_is_refused(session):
    with pytest.raises(LungsegError, match="-850 HU.*Click on the tumour itself"):
        session.add((6, 20, 10))
    for place in ((12, 0, 0), (-1, 0, 0), (0, 0)):
        with pytest.raises(LungsegError, match="does not lie in a scan"):
            session.add(place)
    assert not session.can_undo


def test_a_stroke_covers_what_lies_within_its_radius():
    shape, spacing_mm = (9, 30, 30), (5.0, 1.0, 2.0)
    grid = np.stack(np.indices(shape), axis=-1)
    along = np.clip(grid[..., 2], 5, 20)  # a line from (4, 12, 5) to (4, 12, 20)
    apart = (grid - np.stack([np.full(shape, 4), np.full(shape, 12), along], -1)) * spacing_mm
    ball = np.linalg.norm(apart, axis=-1) <= 6
    line = [(4, 12, 5), (4, 12, 20)]
    assert np.array_equal(stroke_voxels(line, 6, shape, spacing_mm), np.flatnonzero(ball))
    ball[np.arange(9) != 4] = False
    in_plane = stroke_voxels(line, 6, shape, spacing_mm, "axial")
    assert np.array_equal(in_plane, np.flatnonzero(ball))
    assert len(stroke_voxels([(4.2, 11.8, 5)], 0.1, shape, spacing_mm)) == 1
    assert len(stroke_voxels([(40, 0, 0)], 6, shape, spacing_mm)) == 0


def test_what_is_painted_is_kept_and_what_is_erased_is_gone(session, probability):
    session.drop(2)
    session.brush([(4.5, 24.5, 25.5)], 5, plane="axial")  # over the dropped one
    assert session.mask[4, 24:26, 25:27].all() and session.marks[1].is_by_hand
    session.drop(1)
    session.brush([(5, 14, 9)], 1)  # beside a dropped one, which it joins
    assert session.mask[5, 14, 9]
    session.brush([(5, 12, 9)], 30, erase=True)
    assert not session.mask[:, 5:20, 5:14].any()


def test_what_is_left_of_a_dropped_mark_stays_dropped_wherever_it_is_erased(session, scan):
    """Also where its peak was, or the bridge between two parts; a painted mark too."""
    session.drop(1)
    session.brush([(5, 12, 9)], 2, erase=True)  # the peak, and more
    assert [mark.is_kept for mark in session.marks] == [False, True]
    assert session.mask.sum() == 8
    painted = viewer.Session(scan)
    painted.brush([(6, 12, 20), (6, 30, 20)], 3)
    painted.drop(1)
    painted.brush([(6, 12, 20)], 6, erase=True)  # its first voxels
    painted.brush([(6, 22, 20)], 6, erase=True)  # its middle
    assert len(painted.marks) == 2 and not painted.mask.any()
    painted.undo()
    assert len(painted.marks) == 1 and not painted.mask.any()


def test_what_is_left_of_an_uncertain_mark_stays_kept_wherever_it_is_erased(scan, probability):
    probability[5, 25, 26] = 0.7
    session = viewer.Session(scan, probability, min_peak=0.8)
    session.keep(2)
    session.brush([(5, 25, 26)], 1, erase=True)
    assert session.mask.sum() == 27 + 7


def test_a_mark_that_a_higher_threshold_splits_stays_dropped(scan):
    probability = np.zeros(scan.hu.shape, np.float32)
    probability[4:7, 10:30, 18:22] = 0.4
    probability[4:7, 10:14, 18:22] = 0.9
    probability[4:7, 26:30, 18:22] = 0.8
    session = viewer.Session(scan, probability, threshold=0.3)
    session.drop(1)
    session.threshold = 0.6
    assert len(session.marks) == 2 and not session.mask.any()


# --- save, and train on it ------------------------------------------------------------------------


def test_it_is_saved_on_the_scans_own_grid(session, scan, tmp_path):
    session.folder = tmp_path
    session.drop(2)
    (path,) = session.save()
    assert path == tmp_path / "toy_corrected.nii.gz"
    assert np.array_equal(volume.read_label(path, like=scan), session.mask)
    assert session.save(tmp_path / "mask.nii") == [tmp_path / "mask.nii"]
    with pytest.raises(LungsegError, match="not a DICOM series"):
        session.save(tmp_path / "mask.dcm")


def test_scans_of_one_name_never_share_a_mask_and_the_same_scan_replaces_its_own(
    session, scan, tmp_path
):
    """As P1/ct.nii.gz and P2/ct.nii.gz, whose grids may be the same too."""

    def save(source: str, hu_above: int, place: tuple) -> str:
        own = replace(scan, source=tmp_path / source, name="ct", hu=scan.hu + np.int16(hu_above))
        one = viewer.Session(own, folder=tmp_path / "out")
        one.brush([place], 5)
        (path,) = one.save()
        assert np.array_equal(volume.read_label(path, like=own), one.mask)
        return path.name

    assert save("P1/ct.nii.gz", 0, (6, 12, 20)) == "ct_corrected.nii.gz"
    first = (tmp_path / "out" / "ct_corrected.nii.gz").read_bytes()
    assert save("P2/ct.nii.gz", 1, (6, 30, 20)) == "P2_ct_corrected.nii.gz"
    assert (tmp_path / "out" / "ct_corrected.nii.gz").read_bytes() == first
    assert save("P2/ct.nii.gz", 1, (6, 20, 20)) == "P2_ct_corrected.nii.gz"
    assert save("moved/ct.nii.gz", 0, (6, 20, 20)) == "ct_corrected.nii.gz"  # the first again
    with pytest.raises(LungsegError, match="P2_ct.*another scan.*Name the file: session.save"):
        save("other/P2/ct.nii.gz", 2, (6, 12, 20))
    note = (tmp_path / "out" / "P2_ct_corrected.txt").read_text()
    assert str(tmp_path / "P2" / "ct.nii.gz") in note


def test_a_mask_of_which_nothing_says_whose_it_is_is_left_alone(session, tmp_path):
    session.folder = tmp_path
    (tmp_path / "toy_corrected.nii.gz").write_bytes(b"whose?")
    (path,) = session.save()
    assert path.name == f"{Path.cwd().name}_toy_corrected.nii.gz"
    assert (tmp_path / "toy_corrected.nii.gz").read_bytes() == b"whose?"


def test_a_mask_is_never_saved_over_its_scan(scan, tmp_path):
    path = tmp_path / "ct.nii.gz"
    volume.write_nifti(path, scan.hu, scan.affine)
    stored = path.read_bytes()
    (tmp_path / "link.nii.gz").symlink_to(path)
    session = viewer.Session(volume.read(path))
    for name in ("ct.nii.gz", "link.nii.gz", "missing/../ct.nii.gz"):
        with pytest.raises(LungsegError, match="it would overwrite the scan. Choose another name"):
            session.save(tmp_path / name)
    slices = (tmp_path / "CT" / "1.dcm", tmp_path / "CT" / "2.dcm")
    session.scan = replace(scan, source=tmp_path / "CT", slices=slices)
    with pytest.raises(LungsegError, match="2.dcm: it would overwrite the scan"):
        session.save(slices[1])
    assert path.read_bytes() == stored


def test_of_a_dicom_series_a_dicom_seg_is_saved_too(session, scan, tmp_path, monkeypatch):
    from lungseg_utils.volume import dicom_seg

    written = {}

    def write(path, mask, like, *, by_hand):
        written.update(path=path, mask=mask, by_hand=by_hand)

    monkeypatch.setattr(dicom_seg, "write_segmentation", write)
    session.scan = replace(scan, slices=(Path("a.dcm"),))
    session.folder = tmp_path
    nifti, seg = session.save()
    assert (nifti.suffix, seg.suffix) == (".gz", ".dcm")
    assert written["path"] == seg and written["by_hand"]
    assert np.array_equal(written["mask"], session.mask)


def test_corrected_masks_become_a_set_and_the_network_trains_on_it(tmp_path):
    sessions = []
    for seed in (1, 2):
        scan, truth = phantom.make_case(seed)
        scan = replace(scan, name=f"case_{seed}")
        sessions.append(viewer.Session(scan, truth))
    mine = viewer.corrected_set(tmp_path / "mine", sessions[:1])
    assert [case.id for case in mine.training] == ["case_1"]
    sessions[0].drop(1)
    mine = viewer.corrected_set(tmp_path / "mine", sessions)
    assert [case.id for case in mine.training] == ["case_1", "case_2"]
    for case, session in zip(mine.training, sessions):
        scan = volume.read(case.image)
        assert np.array_equal(scan.hu, session.scan.hu)
        assert np.array_equal(volume.read_label(case.label, like=scan), session.mask)
    assert decathlon.check(mine.root).faults == []
    few = {"epochs": 1, "steps_per_epoch": 1, "channels": [4, 8], "patch_size": [16, 16, 16]}
    few |= {"spacing_mm": 6.0, "device": "cpu", "workers": 0}
    settings = parameters.defaults() | few
    assert len(training.train(mine, tmp_path / "run", settings)) == 1


def test_a_set_of_others_and_another_scan_of_the_same_name_are_left_alone(session, scan, tmp_path):
    viewer.corrected_set(tmp_path / "mine", [session])
    other = viewer.Session(replace(scan, hu=scan.hu + np.int16(1)))
    with pytest.raises(LungsegError, match="another scan of this name"):
        viewer.corrected_set(tmp_path / "mine", [other])
    description = tmp_path / "mine" / "dataset.json"
    foreign = description.read_text().replace("Corrected by hand", "Task06_Lung")
    description.write_text(foreign)
    with pytest.raises(LungsegError, match="another origin"):
        viewer.corrected_set(tmp_path / "mine", [session])
    assert description.read_text() == foreign


def test_a_set_that_a_killed_run_or_a_hand_left_incomplete_is_extended_again(
    session, scan, tmp_path
):
    """A half-written label is no case; neither is a scan without its label, nor the other way."""
    second = viewer.Session(replace(scan, name="second"), session.probability)
    third = viewer.Session(replace(scan, name="third"), session.probability)
    mine = viewer.corrected_set(tmp_path / "mine", [session, second, third])
    labels = mine.root / "labelsTr"
    (labels / ".partial-1.0a1b2c3d-fourth.nii.gz").write_bytes(b"half")
    (labels / "second.nii.gz").unlink()
    (mine.root / "imagesTr" / "third.nii.gz").unlink()
    mine = viewer.corrected_set(tmp_path / "mine", [session])
    assert [case.id for case in mine.training] == ["toy"]
    mine = viewer.corrected_set(tmp_path / "mine", [third])
    assert [case.id for case in mine.training] == ["third", "toy"]


# --- what the front end is sent, and sends back ---------------------------------------------------


def unpack_runs(packed):
    """Return the flat indices that `pack_runs` packed, as the front end reads them."""
    if not packed:
        return np.zeros(0, int)
    gaps, lengths = np.frombuffer(zlib.decompress(packed), "<u4").reshape(-1, 2).T.astype(int)
    ends = np.cumsum(gaps + lengths)
    return np.concatenate([np.arange(end - n, end) for end, n in zip(ends, lengths)])


def test_runs_come_back_as_they_were_packed():
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):
        voxels = np.flatnonzero(rng.random(5000) < share)
        assert np.array_equal(unpack_runs(pack_runs(voxels)), voxels)


def test_grey_levels_keep_hu_where_windows_look():
    hu = np.arange(-1024, 2000, dtype=np.int16)
    apart = np.abs(LEVELS_HU[grey_levels(hu)] - hu)
    assert apart[hu < -200].max() <= 4 and apart[(hu >= -200) & (hu < 300)].max() <= 2
    assert apart.max() <= 32
    assert grey_levels(np.array([-3024, 5000], np.int16)).tolist() == [0, 255]
    assert (
        grey_levels(np.array([-850.4, 40.2])).tolist()
        == grey_levels(np.array([-850, 40], np.int16)).tolist()
    )


def test_slices_stay_below_the_bytes_they_may_have(scan):
    rng = np.random.default_rng(0)
    hu = rng.normal(-500, 300, (8, 64, 64)).astype(np.int16)
    for most in (60_000, 12_000):
        pictures, sizes = pack_slices(hu, most)
        assert len(pictures) == sum(sizes) <= most and len(sizes) == 8
    pictures, sizes = pack_slices(scan.hu)
    first = np.asarray(Image.open(BytesIO(pictures[: sizes[0]])))
    assert np.abs(LEVELS_HU[first].astype(int) - scan.hu[0]).mean() < 10


def test_the_widget_shows_what_the_session_holds_and_does_what_it_is_asked(session):
    link = Link(session)
    view = link.view
    assert np.array_equal(unpack_runs(view.kept), np.flatnonzero(session.mask))
    assert view.scan["centre"] == view.state["rows"][0]["centre"]
    assert [row["kind"] for row in view.state["rows"]] == ["prediction", "prediction", "missed"]
    second = view.state["rows"][1]["peak"]
    session.threshold = 0.7  # a call in another cell is seen
    assert view.state["threshold"] == 0.7 and unpack_runs(view.kept).size == 27
    stroke = {"points": [[6, 20, 10]], "radius": 6, "plane": "axial", "erase": False}
    for asked, (content, message) in enumerate(
        (
            ({"kind": "threshold", "value": 0.5}, ""),
            ({"kind": "drop", "peak": second}, "mark 2 is dropped"),
            ({"kind": "keep", "peak": second}, "mark 2 is kept"),
            ({"kind": "add", "place": [6, 20, 10]}, "which is lung or air"),
            ({"kind": "add", "place": [7, 28, 30]}, "lung or air"),
            ({"kind": "brush", **stroke}, "painted"),
            ({"kind": "undo"}, "undone"),
        ),
        start=1,
    ):
        view._handle_custom_msg({**content, "asked": asked}, [])
        assert view.state["answered"] == asked and message in view.state["message"]
        kept = [row["kept"] for row in view.state["rows"] if row["kind"] == "prediction"]
        assert kept == [mark.is_kept for mark in session.marks]
        assert np.array_equal(unpack_runs(view.kept), np.flatnonzero(session.mask))


def test_a_mark_that_is_ticked_while_the_threshold_moves_is_the_one_that_was_seen(
    scan, probability
):
    """The list that the reader saw is older than the marks that Python has."""
    probability[4:8, 20:34, 10:14] = 0.4  # below 0.5, larger than the second
    session = viewer.Session(scan, probability)
    view = Link(session).view
    second = view.state["rows"][1]
    assert second["centre"] == [4, 24, 25]
    view._handle_custom_msg({"kind": "threshold", "value": 0.3, "asked": 1}, [])
    view._handle_custom_msg({"kind": "drop", "peak": second["peak"], "asked": 2}, [])
    (dropped,) = (row for row in view.state["rows"] if not row["kept"])
    assert dropped["centre"] == second["centre"] and dropped["number"] == 3
    view._handle_custom_msg({"kind": "threshold", "value": 0.8, "asked": 3}, [])
    before = session.mask
    view._handle_custom_msg({"kind": "keep", "peak": second["peak"], "asked": 4}, [])
    assert np.array_equal(session.mask, before)
    assert view.state["message"] == "that mark is no longer there"


def test_the_widget_answers_with_the_very_hu(session, monkeypatch):
    view = Link(session).view
    sent = []
    monkeypatch.setattr(view, "send", sent.append)
    view._handle_custom_msg({"kind": "hu", "place": [6, 20, 10]}, [])
    assert sent == [{"kind": "hu", "place": [6, 20, 10], "hu": -850.0}]


def test_what_is_sent_names_no_file_and_has_the_colours_of_the_figures(scan, truth, probability):
    view = viewer.browse(scan, truth, probability > 0.5, interactive=True)
    assert view.scan["colours"] == {"truth": TRUTH_COLOUR, "prediction": PREDICTION_COLOUR}
    assert view.scan["shape"] == [12, 40, 40] and len(view.scan["sizes"]) == 12
    assert np.array_equal(unpack_runs(view.truth), np.flatnonzero(truth))
    assert not any("/" in str(value) for value in view.scan.values())
    assert not view.scan["editable"]


# --- with and without a front end -----------------------------------------------------------------


def test_without_a_front_end_there_are_figures(scan, session, truth):
    assert not viewer.is_live()
    assert isinstance(viewer.browse(scan, truth), Figure)
    assert isinstance(session.view(), Figure)
    assert isinstance(viewer.solid(scan, truth), Figure)


QUESTION = "from lungseg_utils import viewer; print(viewer.is_live())"


@pytest.mark.parametrize(
    ("metadata", "environment", "expected"),
    [
        ({"cellId": "a1b2", "recordTiming": False}, {}, "True"),  # what JupyterLab sends
        ({}, {}, "False"),  # what nbclient (papermill) and nbval send
        ({"cellId": "a1b2"}, {"LUNGSEG_HEADLESS": "1"}, "False"),
    ],
)
def test_a_front_end_is_known_by_the_cell_id_in_its_request(
    metadata, environment, expected, monkeypatch
):
    class Shell:
        def get_parent(self):
            return {"header": {"msg_type": "execute_request"}, "metadata": metadata}

    monkeypatch.delenv("LUNGSEG_HEADLESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("IPython.get_ipython", Shell)
    assert str(viewer.is_live()) == expected


def test_a_real_kernel_passes_the_cell_id_on(monkeypatch):
    from jupyter_client.manager import AsyncKernelManager

    monkeypatch.delenv("LUNGSEG_HEADLESS", raising=False)

    async def ask() -> list[str]:
        manager = AsyncKernelManager(kernel_name="python3")
        await manager.start_kernel(cwd=str(Path(viewer.__file__).parents[2]))
        client = manager.client()
        client.start_channels()
        answers = []
        try:
            await client.wait_for_ready(timeout=60)
            for metadata in ({"cellId": "a1b2"}, {}):
                message = client.session.msg(
                    "execute_request", {"code": QUESTION, "silent": False}, metadata=metadata
                )
                client.shell_channel.send(message)
                while True:
                    reply = await client.get_iopub_msg(timeout=60)
                    is_ours = reply["parent_header"].get("msg_id") == message["header"]["msg_id"]
                    if is_ours and reply["msg_type"] in ("stream", "error"):
                        answers.append(reply["content"].get("text", str(reply["content"])).strip())
                        break
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
        return answers

    assert asyncio.run(ask()) == ["True", "False"]
