"""The benchmark harness: how much of a machine Enseada takes, beside what people run today.

Run from the checkout, never installed: ``python -m bench list``, ``python -m bench run oci-small``. One rule: both
sides get the same bytes, the same load and the same cores in the same run, and a figure that could not be measured is
an error, never a number.
"""
