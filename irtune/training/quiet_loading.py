"""Loading models without transformers' notes on them."""


class QuietLoading:
    """Silences transformers' notes on newly initialised heads, which every run here has on purpose."""

    def __enter__(self) -> None:
        from transformers.utils import logging as transformers_logging

        self._logging = transformers_logging
        self.level = self._logging.get_verbosity()
        self.progress_bar = self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        self._logging.set_verbosity(self.level)
        if self.progress_bar:
            self._logging.enable_progress_bar()
