"""What is asked and answered: the driver, its phases, checks before and the conclusion after."""
