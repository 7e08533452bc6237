"""The commands of the suite, a module each: ``HELP``, ``add_arguments(parser)`` and ``run(given)``."""
