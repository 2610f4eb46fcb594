"""What a scan that fails is reported as; the others go on."""

from collections.abc import Sequence

from lungseg_utils.on_ray import WorkerDiedError
from lungseg_utils.prediction.plan import Job
from lungseg_utils.runtime import LungsegError, file_error, is_out_of_memory


def failure_of(job: Job, error: Exception) -> LungsegError:
    """Return the failure of one scan, of whatever kind, as one that names it."""
    if isinstance(error, LungsegError):
        return error
    if isinstance(error, WorkerDiedError):
        return LungsegError(
            job.scan.source,
            "each process that segmented it died, as where memory does not suffice",
            "Predict it alone, on a machine with more memory",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return file_error(error.filename, error)
    # its own text is not quoted: it may name the patient
    cause = f"failed with {type(error).__name__}"
    if is_out_of_memory(error):
        cause = "not enough memory"
    failure = LungsegError(job.scan.source, cause, "Predict it alone, with --debug, to see where")
    failure.__cause__ = error
    return failure


def raise_all(failures: Sequence[LungsegError], count: int) -> None:
    """Raise the failures of `count` scans, each once, as one error; return where there is none."""
    different = list({str(failure): failure for failure in failures}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        causes = "; ".join(str(failure).rstrip(".") for failure in different)
        raise LungsegError(f"{len(different)} of {count} scans", causes)
