"""OpenLineage events of runs: what went in, what came out, by which rule and model, and whether it passed the gates.

Names follow OpenLineage's naming specification everywhere, in Prefect's assets as well (see `naming.py`). Every event
goes to a file in the home folder, and to a receiver if one is configured; neither can fail a run.

    settings.py    where they go
    naming.py      what data sets, jobs, runs and assets are called
    datasets.py    the input and the output of a run, as its manifest describes them
    events.py      the event of an instant
    sending.py     to the file and to the receiver
    recording.py   the events of one run, from its start to its end
"""
