"""What a sweep found: arrays and tables in, numbers, figures and a report out.

Imports nothing else of irtune. ``trials`` holds the one input type, ``statistics`` the interval, ``answer`` the
sentence, ``tables`` and the rest what a person looks at, ``report`` the page with all of it.
"""
