"""Running a plan: in this process, or divided among workers."""

from symmoe.executor.in_process import InProcessExecutor
from symmoe.executor.kept_answers import KeptAnswers

__all__ = ["InProcessExecutor", "KeptAnswers"]
