"""Exit codes beyond those of every command: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""

SOME_FAILED = 3
STOPPED = 75  # by SIGTERM: the same command goes on
