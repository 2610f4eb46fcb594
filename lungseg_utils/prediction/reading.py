"""Read a scan of any kind, and keep the warnings that belong to it."""

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lungseg_utils import volume
from lungseg_utils.prediction import zips
from lungseg_utils.prediction.inputs import Scan
from lungseg_utils.prediction.plan import Job
from lungseg_utils.prediction.sources import content_of, stamp_of
from lungseg_utils.runtime import WARNINGS, LungsegError
from lungseg_utils.volume import Volume


@dataclass(frozen=True)
class Reading:
    """A scan that has been read, and the warnings of that.

    `folder` holds what was extracted for it, which a DICOM SEG refers to, until `close`. `facts`
    are what a manifest has of it: the hash of its content, and where it was read.
    """

    scan: Volume
    warnings: list[str]
    folder: TemporaryDirectory | None = None
    facts: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Remove what was extracted for the scan."""
        if self.folder:
            self.folder.cleanup()


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this thread, which are printed all the same."""
    token = WARNINGS.set([])
    try:
        yield WARNINGS.get()
    finally:
        WARNINGS.reset(token)


def identify_and_read(scan: Scan, series: str | int | None = None) -> Reading:
    """Read `scan`, and what a manifest has of it: that first, as the file may change meanwhile."""
    facts = {"host": platform.node()}
    with contextlib.suppress(OSError):  # whoever reads it says what is wrong with it
        facts |= {"stamp": stamp_of(scan.source), "content": content_of(scan.source)}
    return replace(read_scan(scan, series), facts=facts)


def read_scan(scan: Scan, series: str | int | None = None) -> Reading:
    """Read `scan`, extracted to a temporary folder where it is a .zip."""
    if scan.fault:
        raise scan.fault
    with collected_warnings() as warnings:
        if scan.is_zip:
            return _read_zip(scan, series, warnings)
        found = volume.read(scan.path, series=series)
    return Reading(replace(found, name=scan.name), warnings)


def _read_zip(scan: Scan, series: str | int | None, warnings: list[str]) -> Reading:
    folder = TemporaryDirectory(prefix="lungseg-")
    extracted = Path(folder.name, scan.path.name)  # messages name the archive by this
    try:
        zips.extract(scan.path, extracted)
        found = volume.read(extracted, series=series)
    except LungsegError as error:
        folder.cleanup()
        subject, cause = (
            text.replace(str(extracted), scan.source) for text in (error.subject, error.cause)
        )
        raise LungsegError(subject, cause, error.remedy) from error
    except BaseException:
        folder.cleanup()
        raise
    own = [warning.replace(str(extracted), scan.source) for warning in warnings]
    return Reading(replace(found, name=scan.name, source=scan.path), own, folder)


def read_ahead(
    reader: ThreadPoolExecutor, jobs: Sequence[Job], read: Callable[[Scan], Reading]
) -> Iterator[tuple[Job, Future[Reading]]]:
    """Return each job with its scan to be, while `reader`, which begins at once, reads the next."""
    coming = [reader.submit(read, job.scan) for job in jobs[:1]]

    def rest() -> Iterator[tuple[Job, Future[Reading]]]:
        for number, job in enumerate(jobs, start=1):
            coming.extend(reader.submit(read, each.scan) for each in jobs[number : number + 1])
            yield job, coming.pop(0)

    return rest()
