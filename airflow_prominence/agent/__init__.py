"""The PROMINENCE node agent: standard library only, Python 3.8 and later, imports nothing of the rest of the package.

``serve`` is the node's service, ``run`` is one job's runner. A node needs nothing but this package (or its ``.pyz``).
"""

__version__ = "1.0.0"
