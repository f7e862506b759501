"""A static site over a publishing root: what is published, how it came about, and what became of it over time.

reading     what a root holds, from manifests and small records alone
entries     a version in figures
charts      small charts
drift       what was watched, and when a drift held
pages       the pages
site        the folder that they are in, written whole or not at all
"""
