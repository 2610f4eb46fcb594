"""Each of the ninety faults that this project defends against has a test of its own, named after its number."""

import re

import pytest
from conftest import ROOT

FAULTS = (
    "truncated file or header",
    "damaged gzip stream",
    "junk after the gzip stream",
    "empty file",
    "web page, picture or text named .nii",
    "gzip where the name says plain, and the reverse; gzipped twice",
    "wrong magic",
    ".hdr/.img pair; upper-case suffix",
    "missing path, folder, empty folder",
    "blanks, accents and signs in paths",
    "dots in the stem",
    "links: sound, dangling, in a circle",
    "the patient's data in a header or extension",
    "extension past its end",
    "absurd size in the header",
    "gzip stream longer than the header says",
    "impossible shape",
    "two dimensions",
    "one volume in four dimensions",
    "many volumes",
    "tiny scans",
    "thick slices",
    "RGB, complex and unknown types",
    "bitpix against datatype",
    "voxel types, slopes, byte orders, NIfTI-2",
    "slope zero or NaN",
    "infinite slope",
    "48 orientations",
    "qform or sform alone",
    "neither qform nor sform",
    "qform against sform",
    "oblique and sheared grids",
    "singular, zero or NaN affine",
    "voxel size zero, negative, NaN or lying",
    "micrometres, metres, unknown units",
    "voxels of 100 m or 1 µm",
    "origin metres away",
    "NaN, infinite and huge voxels",
    "constant, air alone, no lungs",
    "values that are not HU",
    "the offset of -1024 missing",
    "metal and padding",
    "dataset.json missing or malformed",
    "keys, entries and counts of dataset.json",
    "paths with ./, none, backslashes",
    "macOS's ._ files",
    "paths out of the dataset",
    "one case twice; a training scan among the test scans",
    "missing and extra files",
    "several faults at once",
    "wrong level of folder; no training case; one case",
    "values of labels",
    "labels in other types and slopes",
    "label of another shape",
    "label in another place",
    "label along other axes",
    "empty and inverted labels",
    "DICOM: shuffled names, junk",
    "DICOM: missing, duplicate, truncated slices",
    "DICOM: several series, localizer, MR, tilt, rescale",
    "DICOM: no codec, broken or deflated data",
    "damaged checkpoint",
    "malicious checkpoint",
    "foreign checkpoint",
    "damaged or malicious cache",
    "hostile members of an archive",
    "cut, damaged or foreign archive",
    "archive larger than the disk",
    "download cut, short or wrong",
    "server without Range; file changed meanwhile",
    "server errors, sign-in pages, redirects, stalls",
    "another archive already there",
    "kill -9",
    "full disk",
    "folder that cannot be written",
    "two processes at once",
    "stale cache",
    "stale results",
    "no GPU, or out of memory",
    "loss or weights that are no numbers",
    "resume to the bit",
    "resume with other settings",
    "Ctrl-C and SIGTERM",
    "values of parameters",
    "unknown parameters",
    "working directory, blanks, read-only clone",
    "notebooks out of order and again",
    "dead worker process, few open files",
    "hostile file names",
    "secrets and machine paths in what is committed",
)


def named_tests() -> dict[int, list[str]]:
    """Give the tests of each fault by its number: `test_fault_12_…`, or `test_fault_10_and_89_…` for two."""
    found: dict[int, list[str]] = {number: [] for number in range(1, len(FAULTS) + 1)}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, numbers in re.findall(
            r"^def (test_fault_(\d\d(?:_and_\d\d)*)_\w+)", path.read_text("utf-8"), re.M
        ):
            for number in numbers.split("_and_"):
                found[int(number)].append(f"{path.stem}.{name}")
    return found


def test_there_are_ninety():
    assert len(FAULTS) == len(set(FAULTS)) == len(named_tests()) == 90


@pytest.mark.parametrize("number", range(1, 91))
def test_a_fault_has_a_test_of_its_own(number):
    assert named_tests()[number], FAULTS[number - 1]


def test_the_page_on_robustness_lists_them_all():
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| ", page.split("## The ninety faults")[1], re.M)
    assert [int(number) for number in listed] == list(range(1, 91))
    assert not [
        name
        for names in named_tests().values()
        for name in names
        if name.split(".test_fault_")[1] not in page
    ]
