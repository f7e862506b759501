"""How it is run: the servers of one machine, and what checks the lock."""
