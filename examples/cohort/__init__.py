"""Cohort: a small site with members and their avatars, and what an application needs of Rindle to have them."""
