"""Noticing drift: the rows that arrive, compared with those that the last version was made from.

reference   what is kept of a version's raw data, and of its model's residuals
arrivals    what came since the last look
bookmark    what a watch remembers, and what it says
history     what earlier looks found
check       one look
telling     the verdict in Prefect and MLflow
"""
