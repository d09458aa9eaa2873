"""Studies from question to answer: the driver, its phases, checks before and the conclusion after."""
