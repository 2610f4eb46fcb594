"""Widgets where a front end asks for them, the same still picture everywhere else."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lungseg_utils import viewer
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR
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
def mask(scan):
    mask = np.zeros(scan.hu.shape, np.uint8)
    mask[4:7, 10:16, 7:13] = 1
    return mask


def test_without_a_front_end_both_viewers_give_figures(scan, mask):
    assert not viewer.is_live()
    assert isinstance(viewer.browse(scan, mask), Figure)
    assert isinstance(viewer.niivue(scan, mask), Figure)


def test_the_browser_starts_at_the_lesion_and_keeps_to_the_planes_size(scan, mask):
    browser = viewer.browse(scan, mask, interactive=True)
    plane, index, _, picture = browser.children
    assert (index.value, index.max) == (6, 12)
    axial = picture.value
    assert bytes(axial).startswith(b"\x89PNG")
    plane.value = "sagittal"
    assert index.max == 40
    assert 8 <= index.value <= 13
    assert picture.value != axial
    index.value = 40
    plane.value = "axial"  # has only 12 slices
    assert index.max == 12
    assert index.value <= 12


def test_niivue_gets_the_voxels_where_they_lie_and_no_name(scan, mask):
    import nibabel
    from isal import igzip

    widget = viewer.niivue(scan, mask, interactive=True)
    ct, truth = (
        nibabel.Nifti1Image.from_bytes(igzip.decompress(layer.data)) for layer in widget.volumes
    )
    assert np.array_equal(np.asarray(ct.dataobj).T, scan.hu)
    assert np.asarray(truth.dataobj).sum() == mask.sum()
    d, h, w = 3, 5, 7
    assert ct.affine @ [w, h, d, 1] == pytest.approx(scan.affine @ [d, h, w, 1])
    assert ct.header["descrip"].item() == b""
    assert widget.opts.slice_type.name == "RENDER" and widget.opts.is_radiological_convention


def test_niivue_draws_masks_in_the_colours_of_the_figures(scan, mask):
    widget = viewer.niivue(scan, mask, mask, interactive=True)
    colours = {layer.name: layer.colormap_label.lut for layer in widget.volumes[1:]}
    for name, colour in (("truth", TRUTH_COLOUR), ("prediction", PREDICTION_COLOUR)):
        outside, inside = np.reshape(colours[f"{name}.nii.gz"], (2, 4))
        assert outside[3] == 0 and inside[3] == 255
        assert inside[:3].tolist() == [round(255 * part) for part in to_rgb(colour)]


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
        await manager.start_kernel(cwd=str(Path(viewer.__file__).parent.parent))
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
