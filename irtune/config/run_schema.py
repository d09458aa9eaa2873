"""Settings of a single run, which is tracked and resumed as studies are."""

from typing import ClassVar

from irtune.config.study_schema import StudyConfig


class RunConfig(StudyConfig):
    """One experiment, trained once.

    Example:
        >>> RunConfig(method="lisa", seed=3).experiment().strategy
        'lisa'
    """

    kind: ClassVar[str] = "run"
