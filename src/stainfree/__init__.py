"""stainfree: reads the cell-cycle stage of a cell from its images.

Data flows one way, and a module imports only from those before it::

    datasets -> cells -> splits -> training (augment, models, losses) -> predictions -> metrics -> figures -> report
"""

__version__ = "0.1.0"
