"""The clinician's page at a site: a process that speaks to a browser of this machine, and one that searches.

The page's process never opens the index and can read none of the hospital's files; what searches is the gate's user's,
without a network. They speak in bounded, validated messages over a pair of sockets.
"""
