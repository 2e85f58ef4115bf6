"""Recruiters: one file for each rule. The pool file chooses with `routing.recruiter`."""
