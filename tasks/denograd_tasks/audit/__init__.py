"""Questions that an auditor asks of published versions, answered from the publishing root alone.

verify.py       is everything still as it was published?
lineage.py      where does a version come from?
diff.py         what differs between two versions, or between a version and its source?
cell.py         what became of one cell?
"""
