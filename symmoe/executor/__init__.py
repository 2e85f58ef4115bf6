"""Running a plan: in this process, or shared out among workers."""

from symmoe.executor.in_process import InProcessExecutor

__all__ = ["InProcessExecutor"]
