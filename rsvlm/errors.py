"""Every error a person can cause: one root, a few leaves, each one sentence with what to do."""


class RsvlmError(Exception):
    """Root of all errors this project raises on purpose."""


class BandError(RsvlmError, ValueError):
    """A band was asked for that is not there, or bands could not be told apart."""


class SensorError(RsvlmError, ValueError):
    """A sensor is unknown or its description is wrong."""


class SceneError(RsvlmError, ValueError):
    """Pixels, mask and bands of a scene do not fit each other or the request."""


class GeoreferenceError(RsvlmError, ValueError):
    """A place on Earth was asked of something that has none."""


class ImageryError(RsvlmError, ValueError):
    """A file is no imagery this project reads, or it is damaged."""


class UnsafeImageryError(ImageryError):
    """A path or file that the door for imagery does not let in."""


class ImageryTooLargeError(ImageryError):
    """A raster whose header announces more than the caps allow."""


class WeightsError(RsvlmError, ValueError):
    """Weights are missing, damaged, foreign or do not fit their config."""


class FingerprintError(WeightsError):
    """Vectors of one encoder were about to be mixed with another's."""


class ModelNotFoundError(RsvlmError, LookupError):
    """A model is neither on this machine nor reachable."""


class PlanError(RsvlmError, ValueError):
    """A plan breaks the plan grammar."""


class QueryError(RsvlmError, ValueError):
    """A question, filter, box, date or k that cannot be answered as asked."""


class ArchiveError(RsvlmError, ValueError):
    """An archive is missing, damaged, newer than this software, or not one."""


class ArchiveBusyError(ArchiveError):
    """Another process is writing to the archive."""


class ExportError(RsvlmError, ValueError):
    """A result could not be written in the form that was asked for."""


class ConfigError(RsvlmError, ValueError):
    """A configuration file has an unknown key or a value out of range."""


class DatasetError(RsvlmError, ValueError):
    """A folder of labelled data is not laid out as its publishers do, or a file in it is damaged."""


class EvaluationError(RsvlmError, ValueError):
    """A manifest, a prediction or a report that cannot be scored as asked."""
